"""The models: their published sizes, what they give, and that every one of them can be trained."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn
from funnet import models

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SMALL = {"depth": 2, "width": 16, "heads": 2, "context": 16}


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def ids(*shape, below=11, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape), jnp.int32)


def abstract(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


IMAGENET = abstract(2, 224, 224, 3)

# As their papers, torchvision and PyTorch's tutorials count them.
SIZES = {
    "LeNet": (fn.Model(models.lenet, classes=10), abstract(1, 32, 32, 3), 62_006),
    "MLP": (fn.Model(models.mlp, widths=(128, 64, 10)), abstract(1, 28, 28, 1), 109_386),
    "ResNet-18": (fn.Model(models.resnet, classes=1000), IMAGENET, 11_689_512),
    "ResNet-34": (fn.Model(models.resnet, classes=1000, depth=34), IMAGENET, 21_797_672),
    "ResNet-50": (fn.Model(models.resnet, classes=1000, depth=50), IMAGENET, 25_557_032),
    "GPT-2": (fn.Model(models.gpt, vocab=50_257), abstract(1, 8, dtype="int32"), 124_439_808),
    "ViT-B/16": (fn.Model(models.vit, classes=1000), IMAGENET, 86_567_656),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_as_published(name):
    model, x, expected = SIZES[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(model.shapes(x)[0])) == expected


MODELS = {
    "mlp": (fn.Model(models.mlp, widths=(8, 3), rate=0.2), (drawn(4, 5, 5, 1),), (4, 3)),
    "lenet": (fn.Model(models.lenet, classes=3), (drawn(4, 28, 28, 1),), (4, 3)),
    "convnet": (
        fn.Model(models.convnet, classes=3, widths=(4, 8), hidden=16, rate=0.2),
        (drawn(4, 8, 8, 1),),
        (4, 3),
    ),
    "resnet": (fn.Model(models.resnet, classes=3, stem="cifar"), (drawn(4, 8, 8, 3),), (4, 3)),
    "autoencoder": (
        fn.Model(models.autoencoder, latents=4, width=4),
        (drawn(4, 12, 8, 2),),
        (4, 12, 8, 2),
    ),
    "vae": (
        fn.Model(models.vae, latents=4, width=4),
        (drawn(4, 8, 8, 1),),
        ((4, 8, 8, 1), (4, 4), (4, 4)),
    ),
    "generator": (
        fn.Model(models.generator, shape=(28, 28, 1), width=4),
        (drawn(4, 6),),
        (4, 28, 28, 1),
    ),
    "generator of an odd size": (
        fn.Model(models.generator, shape=(7, 5, 2), width=4),
        (drawn(4, 6),),
        (4, 7, 5, 2),
    ),
    "discriminator": (fn.Model(models.discriminator, width=4), (drawn(4, 28, 28, 1),), (4,)),
    "lstm_classifier": (
        fn.Model(models.lstm_classifier, classes=3, vocab=11, width=8, depth=2, rate=0.2),
        (ids(4, 6),),
        (4, 3),
    ),
    "lstm_tagger": (
        fn.Model(models.lstm_tagger, tags=3, vocab=11, width=8),
        (ids(4, 6),),
        (4, 6, 3),
    ),
    "gpt": (fn.Model(models.gpt, vocab=11, rate=0.1, **SMALL), (ids(4, 6),), (4, 6, 11)),
    "transformer": (
        fn.Model(models.transformer, vocab=11, rate=0.1, **SMALL),
        (ids(4, 6), ids(4, 5, seed=1)),
        (4, 5, 11),
    ),
    "vit": (
        fn.Model(models.vit, classes=3, patch=4, depth=2, width=16, heads=2),
        (drawn(4, 8, 12, 1),),
        (4, 3),
    ),
    "multitask": (
        fn.Model(models.multitask, trunk=models.conv_features, heads={"digit": 10, "odd": 1}),
        (drawn(4, 8, 8, 1),),
        {"digit": (4, 10), "odd": (4, 1)},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_finite_outputs(name):
    model, inputs, expected = MODELS[name]
    params, state = model.init(KEY, *inputs)
    output, _ = jax.jit(model.apply)(params, state, *inputs)
    assert jax.tree.map(jnp.shape, output) == expected
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(output))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name):
    """Some steps of Adam go a fifth of the way to a random target, or further."""
    model, inputs, _ = MODELS[name]
    params, state = model.init(KEY, *inputs)
    output = jax.eval_shape(lambda: model.apply(params, state, *inputs)[0])
    targets = jax.tree.map(lambda leaf: 0.5 * drawn(*leaf.shape, seed=2), output)
    optimizer, steps = optax.adam(3e-3), 12 if name == "resnet" else 40

    @jax.jit
    def train(params, state):
        def step(carried, key):
            params, state, kept = carried

            def loss(params):
                y, after = model.apply(params, state, *inputs, train=True, key=key)
                errors = jax.tree.map(lambda a, b: jnp.square(a - b).mean(), y, targets)
                return sum(jax.tree.leaves(errors)), after

            (value, after), slopes = jax.value_and_grad(loss, has_aux=True)(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, kept = optimizer.update(slopes, kept)
            sizes = jax.tree.map(lambda g: jnp.abs(g).max(), slopes)
            return (optax.apply_updates(params, updates), after, kept), (value, sizes)

        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, (params, state, optimizer.init(params)), keys)[1]

    values, sizes = train(params, state)
    assert values[-5:].mean() < 0.8 * values[0], values
    for path, size in jax.tree.leaves_with_path(sizes):
        assert size.max() > 0, path


def test_each_is_short():
    for name, function in vars(models).items():
        if inspect.isfunction(function):
            body = inspect.getsource(inspect.unwrap(function)).splitlines()
            assert len(body) - len((function.__doc__ or "").splitlines()) < 40, name


def test_padding_changes_nothing():
    lengths = jnp.array([6, 1, 3, 4])
    for name in ("lstm_classifier", "lstm_tagger", "gpt"):
        model, (tokens,), _ = MODELS[name]
        params, _ = model.init(KEY, tokens)
        inside = fn.sequence_mask(lengths, 6)
        longer = jnp.concatenate([jnp.where(inside, tokens, 5), ids(4, 3, seed=3)], 1)
        y, z = model(params, tokens, lengths=lengths), model(params, longer, lengths=lengths)
        if y.ndim == 3:
            y, z = (jnp.where(inside[..., None], leaf[:, :6], 0) for leaf in (y, z))
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)


def test_padding_of_source_and_target_changes_nothing():
    model, (source, target), _ = MODELS["transformer"]
    params, _ = model.init(KEY, source, target)
    more = {"source_lengths": jnp.array([6, 1, 3, 4]), "target_lengths": jnp.array([5, 2, 1, 3])}
    inside = fn.sequence_mask(more["target_lengths"], 5)[..., None]
    y = model(params, source, target, **more)
    pad = ids(4, 2, seed=5)
    z = model(params, *(jnp.concatenate([t, pad], 1) for t in (source, target)), **more)[:, :5]
    np.testing.assert_allclose(jnp.where(inside, y, 0), jnp.where(inside, z, 0), atol=1e-5)


def test_the_halves_of_a_transformer_run_on_its_parameters():
    model, (source, target), _ = MODELS["transformer"]
    params, _ = model.init(KEY, source, target)
    memory = fn.Model(models.encode, vocab=11, **SMALL)(params, source)
    decoder = fn.Model(models.decode, vocab=11, **SMALL)
    expected = model(params, source, target)
    np.testing.assert_allclose(decoder(params, target, memory), expected, rtol=1e-5, atol=1e-6)
    cached = fn.Model(models.decode, vocab=11, cache=8, **SMALL)
    state = cached.init(KEY, target, memory)[1]
    for i in range(5):
        y, state = cached.apply(params, state, target[:, i : i + 1], memory)
        np.testing.assert_allclose(y[:, 0], expected[:, i], rtol=1e-4, atol=1e-5)


def test_new_images_of_a_variational_autoencoder():
    model, (images,), _ = MODELS["vae"]
    params, state = model.init(KEY, images)
    logits, mean, _ = model(params, images)
    decoder = fn.Model(models.image_decoder, shape=(8, 8, 1), width=4)
    np.testing.assert_allclose(decoder(params["decoder"], mean), logits, rtol=1e-5, atol=1e-6)
    draws = [
        model.apply(params, state, images, train=True, key=jax.random.key(i))[0][0] for i in (1, 2)
    ]
    assert (draws[0] != draws[1]).any()


def test_one_trunk_serves_all_tasks():
    model, (images,), _ = MODELS["multitask"]
    params, _ = model.init(KEY, images)
    assert set(params) == {"trunk", "heads"}
    assert set(params["heads"]) == {"digit", "odd"}


WRONG = {
    "depth": (models.resnet, {"classes": 3, "depth": 20}, (8, 8, 3), r"depth.*\[18, 34, 50\]"),
    "stem": (models.resnet, {"classes": 3, "stem": "mnist"}, (8, 8, 3), "stem"),
    "patch": (models.vit, {"classes": 3, "patch": 3}, (8, 8, 3), r"patch.*3"),
    "sides": (models.autoencoder, {"latents": 3}, (6, 8, 3), "4 must divide"),
    "rank": (models.autoencoder, {"latents": 3}, (8, 3), r"\(N, H, W, C\)"),
    "no channels": (models.lenet, {"classes": 3}, (28, 28), r"images\[\.\.\., None\]"),
    "no channels to convolve": (models.convnet, {"classes": 3}, (28, 28), "takes images of shape"),
    "no channels to stem": (models.resnet, {"classes": 3}, (28, 28), "takes images of shape"),
    "no channels to judge": (models.discriminator, {}, (28, 28), "takes images of shape"),
    "no channels to cut": (models.vit, {"classes": 3}, (32, 32), "takes images of shape"),
    "latents": (models.vae, {"latents": 0}, (8, 8, 3), "latents"),
}


def test_a_cache_has_no_room_beyond_the_positions():
    with pytest.raises(ValueError, match=r"cache=17, context=16"):
        fn.Model(models.gpt, vocab=11, cache=17, **SMALL).shapes(ids(2, 3))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    function, settings, shape, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        fn.Model(function, **settings).shapes(drawn(2, *shape))
