"""Mixed precision: what is computed in half, what is stored and returned in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
BYTES = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
IDS = jnp.arange(12, dtype=jnp.int32).reshape(3, 4)


@fn.layer
def net(p, x):
    """A norm with state, dropout, and a layer of one's own that casts nothing."""
    x = fn.batch_norm(p["norm"], fn.conv(p["conv"], fn.normalise(x, 0.5, 0.5), 4, 3))
    x = fn.dropout(p["dropout"], fn.relu(x), 0.25)
    x = scaled(p["own"], x)
    return fn.dense(p["head"], fn.layer_norm(p["last"], fn.global_avg_pool(x)), 2)


@fn.layer
def scaled(p, x):
    return x * p.param("w", x.shape[-1:], initializers.ones)


@fn.layer
def words(p, ids):
    x = fn.embed(p.shared("tokens"), ids, 12, 8)
    x = fn.position_embed(p["places"], x, 4)
    x = fn.repeat(fn.remat(mixer), 2)(p["blocks"], x)
    return fn.unembed(p.shared("tokens"), fn.rms_norm(p["norm"], x), 12)


@fn.layer
def mixer(p, x):
    x = x + fn.attention(p["attention"], fn.layer_norm(p["norm"], x), heads=2)
    y, _ = fn.gru(p["gru"], x, 8)
    return x + fn.dropout(p["dropout"], y, 0.5)


CASES = {"floats": (net, X), "bytes": (net, BYTES), "words": (words, IDS)}
EACH = pytest.mark.parametrize("case", CASES)


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def taken(layer, x, dtype="bfloat16", **how):
    model = fn.Model(fn.mixed(layer, dtype))
    trees = fn.Model(layer).init(KEY, x)
    return model.capture(*trees, x, taps="*", train=True, key=KEY, **how)


@EACH
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_all_layers_compute_in_it_and_the_result_is_float32(case, dtype):
    layer, x = CASES[case]
    output, activations = taken(layer, x, dtype)
    assert dtypes(output) == {"float32"}
    activations.pop("blocks.gru", None)
    assert dtypes(activations) == {dtype}


@EACH
def test_numbers_are_those_of_full_precision_but_for_rounding(case):
    layer, x = CASES[case]
    trees = fn.Model(layer).init(KEY, x)
    expected, state = fn.Model(layer).apply(*trees, x, train=True, key=KEY)
    for dtype, off in (("float16", 5e-3), ("bfloat16", 5e-2), ("float32", 1e-6)):
        found, after = fn.Model(fn.mixed(layer, dtype)).apply(*trees, x, train=True, key=KEY)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=off * scale)
        assert (np.asarray(found) != expected).any() == (dtype != "float32")
        assert dtypes(after) <= {"float32"}
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(new, old, atol=off)


@EACH
def test_what_is_stored_is_the_same_and_gradients_are_float32(case):
    layer, x = CASES[case]
    trees, plain = (fn.Model(f).init(KEY, x) for f in (fn.mixed(layer), layer))
    assert jax.tree.structure(trees) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, trees, plain)
    assert dtypes(trees) == {"float32"}

    def loss(params):
        y, _ = fn.Model(fn.mixed(layer)).apply(params, trees[1], x, train=True, key=KEY)
        return (y**2).mean()

    slope = jax.jit(jax.grad(loss))(trees[0])
    assert dtypes(slope) == {"float32"}
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slope))


def products(layer, x, **how):
    """The input dtypes of all products and convolutions in the program."""
    trees = fn.Model(layer).init(KEY, x)
    program = jax.make_jaxpr(lambda *a: fn.Model(layer).apply(*a, x, **how)[0])(*trees)
    found = set()

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                found.update(v.aval.dtype.name for v in eqn.invars)
            for inner in jax.extend.core.jaxprs_in_params(eqn.params):
                walk(inner)

    walk(program.jaxpr)
    return found


def test_bytes_that_the_net_normalises_are_not_computed_in_float32():
    assert products(net, BYTES) == {"float32"}
    assert products(fn.mixed(net), BYTES) == {"bfloat16"}


def test_within_lifts_around_lifts_and_within_itself():
    def outer(p, x):
        return fn.repeat(fn.mixed(fn.remat(fn.dense)), 2)(p["a"], x, 3)

    def inner(p, x):
        return fn.mixed(fn.repeat(fn.remat(fn.dense), 2))(p["a"], x, 3)

    x = jnp.asarray(X[:, 0, :, 0].reshape(-1, 8)[:, :3])
    trees = fn.Model(outer).init(KEY, x)
    for layer in (outer, inner, lambda p, x: fn.remat(fn.mixed(outer))(p, x)):
        y, state = fn.Model(layer).apply(*trees, x)
        assert (y.dtype, state) == (jnp.float32, {})
        assert "bfloat16" in products(layer, x)

    def island(p, x):
        x = fn.dense(p["half"], x, 4)
        full = fn.mixed(fn.dense, "float32")(p["full"], x, 4)
        assert full.dtype == x.dtype  # of what is around it
        return fn.dense(p["last"], full, 2)

    _, found = fn.Model(fn.mixed(fn.layer(island))).capture(
        *fn.Model(fn.layer(island)).init(KEY, x), x, taps=["half", "full", "last"]
    )
    assert {name: y.dtype.name for name, y in found.items()} == {
        "half": "bfloat16",
        "full": "float32",
        "last": "bfloat16",
    }


def test_a_net_may_hand_its_own_scope_on():
    handed = fn.layer(lambda p, x: fn.mixed(fn.dense)(p, x, 3))
    x = jnp.ones((2, 4))
    model = fn.Model(handed)
    y, found = model.capture(*model.init(KEY, x), x, taps="*")
    assert (y.dtype, list(found)) == (jnp.float32, [""])
    assert products(handed, x) == {"bfloat16"}


def test_keys_are_those_of_the_net_without():
    def drop(p, x):
        return fn.dropout(p["d"], x, 0.5)

    x = jnp.ones((8, 4))
    plain = fn.Model(fn.layer(drop))({}, x, train=True, key=KEY)
    mixed = fn.Model(fn.mixed(fn.layer(drop)))({}, x, train=True, key=KEY)
    np.testing.assert_array_equal(plain, mixed)


def test_patches_and_reparametrised_kernels():
    def normed(p, x):
        return fn.weight_norm(fn.dense)(p["d"], x, 3)

    x = jnp.ones((2, 4))
    model = fn.Model(fn.mixed(fn.layer(normed)))
    params, state = model.init(KEY, x)
    kernel = jax.tree.map(lambda v: v * 3, params["d"]["kernel"])  # whose length is not its own
    tripled = {"d": {**params["d"], "kernel": kernel}}
    np.testing.assert_allclose(model(tripled, x), model(params, x), rtol=1e-2)
    y, _ = model.capture(params, state, x, patches={"d": lambda y: y * 0})
    assert (y == 0).all()
    assert y.dtype == jnp.float32


def test_it_trains_in_a_step():
    model = fn.Model(fn.mixed(net))
    data = {"image": BYTES, "label": np.array([0, 1, 0, 1], np.int32)}
    optimizer = fn.optim.adamw(1e-2)
    objective = fn.classification(model)
    step = fn.train_step(objective, optimizer, accumulate=2)
    run = fn.Run.start(model, optimizer, BYTES)
    batches = fn.data.batches(data, 4)
    after = fn.fit(step, run, batches, steps=20, progress=False)
    losses = [fn.evaluate(objective, r, data)["loss"] for r in (run, after)]
    assert losses[1] < losses[0]
    assert dtypes((after.params, after.state)) == {"float32"}


def test_losses_sum_in_float32():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1000)) * 3, jnp.bfloat16)
    labels = jnp.arange(4, dtype=jnp.int32)
    expected = fn.losses.cross_entropy(logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(
        fn.losses.cross_entropy(logits, labels).astype(jnp.float32), expected, rtol=1e-2
    )
    mean = fn.metrics.mean(jnp.full(4096, 0.1, jnp.bfloat16))
    np.testing.assert_allclose(mean.value, jnp.bfloat16(0.1).astype(jnp.float32), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    for dtype in ("int8", "float64", "half-ish", jnp.int32):
        with pytest.raises(ValueError, match="dtype must be one of bfloat16, float16, float32"):
            fn.mixed(fn.dense, dtype)
    with pytest.raises(TypeError, match=r"mixed takes a layer.*fn\.mixed\(fn\.dense\)"):
        fn.mixed(jnp.ones(3))
