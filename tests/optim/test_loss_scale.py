"""Loss scaling: an overflow is a step that changes nothing but the scale."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import BATCHES, DATA, MODEL, OBJECTIVE, X, close, same, start, stepped

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")
ADAM = fn.optim.adamw(1e-2)


def test_a_scaled_loss_trains_as_without():
    run, told = stepped(fn.optim.scale_loss(ADAM, 2.0**10))
    plain, expected = stepped(ADAM)
    close(run.params, plain.params)
    for found, metrics in zip(told, expected, strict=True):
        assert float(found.pop("loss_scale")) == 1024
        close(found, metrics)


def scalar(optimizer, w=1.0):
    params = {"w": jnp.float32(w)}
    return fn.Run(params, {"n": jnp.int32(0)}, optimizer.init(params), jnp.int32(0), jnp.uint32(0))


def scalar_step(optimizer, function=lambda w, x: (w.astype(jnp.float16) * x).astype(jnp.float32)):
    """Float16 within, so that a gradient beyond 65504 overflows."""

    def objective(params, state, batch, *, train, key):
        return function(params["w"], batch["x"]), ({"n": state["n"] + 1}, {})

    return jax.jit(fn.train_step(objective, optimizer))


def x(value):
    return {"x": jnp.float16(value)}


def test_an_overflow_halves_the_scale_and_counts_as_a_step():
    optimizer = fn.optim.scale_loss(fn.optim.average(optax.adam(0.1), 0.9), 2.0**14, interval=2)
    step, run = scalar_step(optimizer), scalar(optimizer)
    new, metrics = step(run, x(8))
    assert (float(metrics["loss"]), float(metrics["loss_scale"])) == (8, 2.0**14)
    assert not np.isfinite(metrics["gradient_norm"])
    assert (int(new.step), int(new.state["n"])) == (1, 1)
    same((new.params, new.optimizer_state.inner), (run.params, run.optimizer_state.inner))
    same(new.optimizer_state.average, run.optimizer_state.average)
    assert float(new.optimizer_state.loss_scale.scale) == 2.0**13


def test_the_scale_follows_a_hand_written_one():
    optimizer = fn.optim.scale_loss(optax.sgd(0.0), 2.0**14, interval=3)
    step, run, scale, good = scalar_step(optimizer), scalar(optimizer), 2.0**14, 0
    for value in (1, 16, 16, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 30000, 1):
        run, metrics = step(run, x(value))
        assert float(metrics["loss_scale"]) == scale
        if scale * value > 65504:
            scale, good = scale / 2, 0
        else:
            good += 1
            scale, good = (2 * scale, 0) if good == 3 else (scale, good)
        assert float(run.optimizer_state.loss_scale.scale) == scale
        assert int(run.optimizer_state.loss_scale.good) == good
    assert int(run.step) == 15


def test_small_gradients_survive():
    tiny = lambda w, x: (w.astype(jnp.float16) * x).astype(jnp.float32) * 2.0**-20  # noqa: E731
    for scale, expected in ((1.0, 0.0), (2.0**12, 2.0**-30)):
        optimizer = fn.optim.scale_loss(optax.sgd(1.0), scale)
        _, metrics = scalar_step(optimizer, tiny)(scalar(optimizer), x(2.0**-10))
        np.testing.assert_allclose(metrics["gradient_norm"], expected, rtol=1e-3)


def test_a_loss_that_is_not_finite_is_refused():
    optimizer = fn.optim.scale_loss(optax.sgd(1.0))
    step, run = scalar_step(optimizer, lambda w, x: w / x.astype(jnp.float32)), scalar(optimizer)
    new, metrics = step(run, x(0))
    same(new, run)
    assert np.isinf(metrics["loss"])


def test_a_gradient_that_is_never_finite_is_refused_in_the_end():
    optimizer = fn.optim.scale_loss(optax.sgd(1.0), 4.0)
    root = lambda w, x: jnp.sqrt(w * x.astype(jnp.float32))  # noqa: E731
    step, run = scalar_step(optimizer, root), scalar(optimizer)
    scales = []
    for _ in range(4):
        run, metrics = step(run, x(0))
        scales.append(float(metrics["loss_scale"]))
    assert scales == [4, 2, 1, 1]
    assert int(run.step) == 2


WRAPS = {
    "freeze": lambda optimizer: fn.optim.freeze(optimizer, "trunk.one.*"),
    "average": lambda optimizer: fn.optim.average(optimizer, 0.5),
    "scale": fn.optim.scale_loss,
    "multiply": lambda optimizer: fn.optim.multiply(optimizer, {"head.*": 0.5}),
}


def test_all_orders_are_one_optimizer():
    params = start(ADAM).params
    expected = None
    for order in itertools.permutations(WRAPS):
        optimizer = ADAM
        for name in order:
            optimizer = WRAPS[name](optimizer)
        trainable, _ = optimizer.split(params)
        with jax.numpy_dtype_promotion("standard"):
            found = optimizer.update(trainable, optimizer.init(params), trainable)
        expected = expected or found
        same(found, expected)


def test_a_half_precision_net_trains():
    model = fn.Model(fn.mixed(MODEL.layer, "float16"))
    optimizer = fn.optim.scale_loss(fn.optim.adamw(1e-2), 2.0**15)
    batches = fn.data.batches(DATA, 32)
    step = fn.train_step(fn.classification(model), optimizer)
    run = fn.fit(step, fn.Run.start(model, optimizer, X), batches, steps=60, progress=False)
    before = fn.evaluate(OBJECTIVE, start(ADAM), DATA)["loss"]
    assert fn.evaluate(OBJECTIVE, run, DATA)["loss"] < 0.5 * before
    assert {leaf.dtype.name for leaf in jax.tree.leaves(run.params)} == {"float32"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"initial is 0\.5"):
        fn.optim.scale_loss(ADAM, 0.5)
    with pytest.raises(ValueError, match="interval is 0"):
        fn.optim.scale_loss(ADAM, interval=0)
    chained = optax.chain(fn.optim.scale_loss(ADAM))
    with pytest.raises(ValueError, match=r"scale_loss is inside.*outermost"):
        fn.train_step(OBJECTIVE, chained)(start(chained), BATCHES[0])
