"""Counting operations: by hand, against XLA's analysis, and loops as often as they turn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn
from funnet.profiling.work import tally


def of(function, *args, platform="cpu"):
    return tally(jax.make_jaxpr(function)(*args).jaxpr, platform)


def by_xla(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def product(x, w):
    return x @ w


def test_a_product_is_two_operations_for_each_factor():
    assert of(product, jnp.ones((3, 5)), jnp.ones((5, 7))).flops == 2 * 3 * 5 * 7
    batched = of(product, jnp.ones((4, 3, 5)), jnp.ones((4, 5, 7)))
    assert batched.flops == 4 * 2 * 3 * 5 * 7


def test_the_dtype_is_that_of_most_of_the_products():
    def mixed(x, w):
        return (x @ w).sum() + (x.astype("bfloat16") @ jnp.ones((5, 70), "bfloat16")).sum() * 0.0

    with jax.numpy_dtype_promotion("standard"):
        assert of(mixed, jnp.ones((3, 5)), jnp.ones((5, 7))).dtype == "bfloat16"
    assert of(jnp.sin, jnp.ones(3)).dtype == "float32"


CONVOLUTIONS = [
    {"padding": "VALID"},
    {"padding": "SAME"},
    {"padding": "SAME", "window_strides": (2, 1)},
    {"padding": [(3, 1), (0, 2)], "feature_group_count": 4},
    {"padding": [(1, 1), (2, 2)], "lhs_dilation": (2, 3)},
    {"padding": "SAME", "rhs_dilation": (2, 1)},
    {"padding": "SAME", "batch_group_count": 2},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_a_convolution_counts_what_xla_counts(settings):
    settings = {"window_strides": (1, 1), **settings}
    groups = settings.get("feature_group_count", 1)
    x, w = jnp.ones((4, 11, 9, 8)), jnp.ones((3, 2, 8 // groups, 16))

    def convolution(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **settings)

    assert of(convolution, x, w).flops == by_xla(convolution, x, w) > 0


def test_a_convolution_by_hand():
    # 4 of the 6 columns see all three taps, the outer two see two of them; rows alike.
    met = (4 * 3 + 2 * 2) ** 2
    found = of(
        lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"),
        jnp.ones((2, 5, 6, 6)),
        jnp.ones((7, 5, 3, 3)),
    )
    assert found.flops == 2 * 2 * 5 * 7 * met


def test_arithmetic_is_one_operation_a_number_and_moving_is_none():
    x = jnp.ones((3, 4))
    assert of(lambda x: x * 2.0 + 1.0, x).flops == 2 * 12
    assert of(lambda x: jnp.transpose(x)[::-1].reshape(-1), x).flops == 0
    assert of(lambda x: x.sum(0), x).flops == 12
    assert of(lambda i: i + 1, jnp.arange(5)).flops == 0
    assert of(lambda key: jax.random.bits(key, (100,)), jax.random.key(0)).flops == 0


def test_a_scan_counts_its_body_as_often_as_it_turns():
    def turns(x, w, n):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, n)[0]

    x, w = jnp.ones((3, 5)), jnp.ones((5, 5))
    one = of(lambda x, w: turns(x, w, 1), x, w).flops
    assert one == 2 * 3 * 5 * 5
    assert of(lambda x, w: turns(x, w, 7), x, w).flops == 7 * one
    nested = lambda x, w: jax.lax.fori_loop(0, 3, lambda _, x: turns(x, w, 7), x)  # noqa: E731
    assert of(nested, x, w).flops == 21 * one


def test_a_scan_counts_what_xla_counts_of_the_same_written_out():
    def body(x, w):
        return x @ w + 1.0

    def written_out(x, w):
        for _ in range(6):
            x = body(x, w)
        return x

    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (body(x, w), None), x, None, 6)[0]

    x, w = jnp.ones((30, 50)), jnp.ones((50, 50))
    assert of(scanned, x, w).flops == by_xla(written_out, x, w) == 6 * (2 * 30 * 50 * 50 + 30 * 50)


def test_a_while_loop_counts_once_and_is_named():
    def halved(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] > 1e-3, lambda x: x @ w, x)

    found = of(halved, jnp.ones((3, 5)), jnp.eye(5))
    assert 2 * 3 * 5 * 5 <= found.flops <= 2 * 3 * 5 * 5 + 10
    assert found.untold == ("while",)


def test_of_a_cond_the_dearest_branch_counts():
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    found = of(either, jnp.ones((3, 5)), jnp.ones((5, 5)))
    assert 2 * 2 * 3 * 5 * 5 <= found.flops <= 2 * 2 * 3 * 5 * 5 + 5


def test_of_operations_by_platform_those_for_this_one_count():
    def by_platform(x):
        return jax.lax.platform_dependent(
            x, cpu=lambda x: x @ x, tpu=lambda x: x @ x @ x, default=lambda x: x
        )

    one, x = 2 * 4**3, jnp.ones((4, 4))
    for platform, times in (("cpu", 1), ("tpu", 2), ("cuda", 0)):
        assert of(by_platform, x, platform=platform).flops == times * one


def test_what_cannot_be_counted_is_named():
    found = of(lambda x: jnp.linalg.cholesky(x) @ x, jnp.eye(4))
    assert found.untold == ("cholesky",)
    assert found.flops >= 2 * 4**3


def test_what_is_not_used_does_not_count():
    def loss(w, x):
        return (x @ w).sum()

    x, w = jnp.ones((3, 5)), jnp.ones((5, 7))
    found = of(jax.grad(loss, argnums=(0, 1)), w, x)  # which needs no value, only gradients
    assert sum(found.products.values()) == 2 * 2 * 3 * 5 * 7
    both = of(jax.value_and_grad(loss, argnums=(0, 1)), w, x)
    assert sum(both.products.values()) == 3 * 2 * 3 * 5 * 7


@fn.layer
def turned(p, x, depth):
    return fn.repeat(fn.dense, depth)(p["blocks"], x, 6, bias=False)


def gradients(layer, x, **settings):
    model = fn.Model(layer, **settings)
    params = model.shapes(x)[0]
    found = of(jax.grad(lambda params, x: model(params, x).sum()), params, x)
    return {".".join(chain[-1].path): flops for chain, flops in found.layers.items() if chain}


@pytest.mark.parametrize("depth", [2, 4])
def test_a_repeated_block_counts_as_often_as_it_turns(depth):
    counts = gradients(turned, jnp.ones((3, 6)), depth=depth)
    assert counts["blocks"] >= depth * 3 * 2 * 3 * 6 * 6
    assert counts["blocks"] <= depth * (3 * 2 * 3 * 6 * 6 + 6 * 6 + 6)


def test_a_recurrent_layer_counts_every_step():
    @fn.layer
    def net(p, x):
        return fn.lstm(p["lstm"], x, 16)[0]

    counts = {t: gradients(net, jnp.ones((2, t, 8)))["lstm"] for t in (4, 8, 16)}
    assert counts[16] - counts[8] == 2 * (counts[8] - counts[4])
    factors = 2 * (8 + 16) * 4 * 16  # by step, forward
    assert (counts[16] - counts[8]) / 8 > 2.5 * 2 * factors


def test_a_step_without_loops_counts_about_what_xla_counts():
    @fn.layer
    def net(p, x):
        x = fn.relu(fn.dense(p["hidden"], x, 64))
        return fn.dense(p["out"], x, 10)

    model, sgd = fn.Model(net), optax.sgd(0.1)
    batch = {"image": jnp.ones((32, 128)), "label": jnp.zeros(32, "int32")}
    step = fn.train_step(fn.classification(model), sgd)
    run = fn.Run.start(model, sgd, batch["image"])
    np.testing.assert_allclose(of(step, run, batch).flops, by_xla(step, run, batch), rtol=0.05)
