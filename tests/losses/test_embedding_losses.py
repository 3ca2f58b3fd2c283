"""Triplets, pairs and views: by hand, where vectors coincide, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulls import value_and_gradient

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Triplets.


def test_a_triplet_by_hand():
    anchor, near, far = np.zeros((3, 2)), np.array([3.0, 4.0]), np.array([[0, 2], [0, 5.5], [0, 7]])
    loss = losses.triplet(anchor, np.tile(near, (3, 1)), far, margin=1.0)
    np.testing.assert_allclose(loss, [4, 0.5, 0], rtol=1e-5)


def test_triplets_that_coincide_have_gradients_as_in_pytorch():
    torch = pytest.importorskip("torch")
    zero = np.zeros((1, 3), np.float32)
    leaves = [torch.tensor(zero, requires_grad=True) for _ in range(3)]
    loss = torch.nn.functional.triplet_margin_loss(*leaves, reduction="none")
    expected = torch.autograd.grad(loss.sum(), leaves)
    found, pull = jax.vjp(jax.jit(losses.triplet), zero, zero, zero)
    np.testing.assert_allclose(found, loss.detach().numpy())
    for ours, theirs in zip(pull(jnp.ones(1)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_distances_do_not_overflow():
    a, b, c = (draw(4, 5, seed=seed) for seed in range(3))
    expected = losses.triplet(a, b, c, margin=1.0)
    loss, gradient = value_and_gradient(
        lambda a: losses.triplet(a, b * 1e30, c * 1e30, margin=1e30), a * 1e30
    )
    np.testing.assert_allclose(loss / 1e30, expected, rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_small_distances_do_not_vanish():
    a, b = draw(4, 5), draw(4, 5, seed=1)
    far = np.zeros(4, bool)
    _, expected = value_and_gradient(lambda a: losses.contrastive(a, b, far, margin=100.0), a)
    distance = np.linalg.norm(a - b, axis=-1, keepdims=True)
    _, found = value_and_gradient(
        lambda a: losses.contrastive(a, b * 1e-30, far, margin=1.0), a * 1e-30
    )
    np.testing.assert_allclose(found, expected / (100 - distance), rtol=1e-4)


# Pairs.


def test_pairs_by_hand():
    a, b = np.zeros((3, 2)), np.array([[0.3, 0.4], [0.3, 0.4], [3.0, 4.0]])
    loss = losses.contrastive(a, b, np.array([True, False, False]), margin=2.0)
    np.testing.assert_allclose(loss, [0.125, 1.125, 0], rtol=1e-6)


def test_pairs_that_coincide_have_no_gradient():
    zero = jnp.zeros((2, 3))
    loss, gradient = value_and_gradient(losses.contrastive, zero, zero, np.array([True, False]))
    np.testing.assert_array_equal(loss, [0, 0.5])
    assert not gradient.any()


def test_same_is_for_booleans_one_a_pair():
    for dtype in (np.int32, np.float32):
        with pytest.raises(TypeError, match=r"same must be booleans, got .*same\.astype\(bool\)"):
            losses.contrastive(draw(2, 3), draw(2, 3), np.ones(2, dtype))
    for shape in [(2, 1), (2, 3), (1,), ()]:
        with pytest.raises(ValueError, match=r"same has shape .*one for each pair, \(2,\)"):
            losses.contrastive(draw(2, 3), draw(2, 3), np.ones(shape, bool))


# Views.


def test_views_by_hand():
    # Four views, all others at right angles but for the pair: exp(1) beside exp(0) twice.
    loss = losses.nt_xent(jnp.eye(2), 3 * jnp.eye(2), temperature=1.0)
    np.testing.assert_allclose(loss, [np.log(1 + 2 / np.e)] * 2, rtol=1e-6)


def test_views_that_are_all_alike_tell_nothing():
    loss, gradient = value_and_gradient(losses.nt_xent, jnp.ones((4, 3)), jnp.ones((4, 3)))
    np.testing.assert_allclose(loss, [np.log(7)] * 4, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((4, 3)), atol=1e-6)


def test_the_views_may_be_swapped_and_lengths_do_not_count():
    a, b = draw(5, 4), draw(5, 4, seed=1)
    found = losses.nt_xent(a, b)
    np.testing.assert_allclose(losses.nt_xent(b, a), found, rtol=1e-5)
    np.testing.assert_allclose(losses.nt_xent(1e10 * a, 1e-10 * b), found, rtol=1e-5)


def test_zero_vectors_have_finite_gradients():
    a, b = draw(3, 4), draw(3, 4, seed=1)
    a[0] = b[1] = 0
    loss, pull = jax.vjp(jax.jit(losses.nt_xent), a, b)
    assert np.isfinite(loss).all()
    assert all(np.isfinite(gradient).all() for gradient in pull(jnp.ones(3)))


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (4,), (2, 3, 4)])
def test_views_come_in_batches(shape):
    with pytest.raises(ValueError, match=r"a has shape .*expected \(N, D\) with N at least 2"):
        losses.nt_xent(np.ones(shape), np.ones(shape))


# All.

VECTORS = {
    "triplet": (losses.triplet, ("anchor", "positive", "negative")),
    "contrastive": (lambda a, b: losses.contrastive(a, b, np.ones(4, bool)), ("a", "b")),
    "nt_xent": (losses.nt_xent, ("a", "b")),
}


@pytest.mark.parametrize("name", VECTORS)
def test_shapes_and_dtypes(name):
    loss, names = VECTORS[name]
    ones = [draw(4, 3)] * len(names)
    for odd in range(1, len(names)):
        with pytest.raises(ValueError, match=rf"{names[odd]} has shape \(1, 3\), expected equal"):
            loss(*[x[:1] if i == odd else x for i, x in enumerate(ones)])
    with pytest.raises(TypeError, match=rf"{names[0]} must be floating point"):
        loss(ones[0].astype(int), *ones[1:])
    with pytest.raises(ValueError, match=rf"{names[0]} has shape \(\), expected a first axis"):
        loss(*[np.float32(0)] * len(names))


@pytest.mark.parametrize(
    ("loss", "setting"),
    [
        (losses.triplet, "margin"),
        (losses.contrastive, "margin"),
        (losses.nt_xent, "temperature"),
    ],
)
def test_settings_are_above_zero(loss, setting):
    with pytest.raises(ValueError, match=f"{setting} is 0, expected {setting} > 0"):
        loss(*[draw(4, 3)] * (3 if loss is not losses.nt_xent else 2), **{setting: 0})
