"""PyTorch's tutorial as a contender: the recipe's network, and the same images in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from recipes.lenet_cifar import net

torch = pytest.importorskip("torch")

from benchmarks.peers import tutorial  # noqa: E402

LABELS = np.arange(8, dtype=np.int32)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("form", ["images", "tensors", "indexed"])
def test_every_form_has_the_images_that_the_recipe_sees(form):
    torch.manual_seed(0)
    trained = tutorial.Trained(IMAGES, LABELS, 4, form)
    found = [next(trained.batches) for _ in range(2)]
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert sorted(labels.tolist()) == LABELS.tolist()
    expected = fn.normalise(jnp.asarray(IMAGES), mean=0.5, std=0.5)[labels.numpy()]
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_it_trains_a_network_of_as_many_parameters():
    trained = tutorial.Trained(IMAGES, LABELS, 4, "tensors")
    shapes, _ = fn.Model(net).shapes(IMAGES)
    ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sum(p.numel() for p in trained.net.parameters()) == ours == 62_006
    assert trained.run(20) > trained.run(20)
