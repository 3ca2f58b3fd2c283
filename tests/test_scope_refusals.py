"""What the scope refuses: one name for two things, and state or keys in a loop of your own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funnet as fn
from funnet import initializers

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
ONES = initializers.ones


def closed(function):
    return fn.Model(fn.layer(function))


def dense(p, x):
    return fn.dense(p, x, 4)


def scanned(function, x):
    return lax.scan(lambda x, _: (function(x), None), x, None, length=2)[0]


# One name, two uses: they would silently share parameters.


def child_twice(p, x):
    return dense(p["d"], dense(p["d"], x))


def child_in_a_loop(p, x):
    for _ in range(2):
        x = dense(p["d"], x)
    return x


def one_scope_for_two_layers(p, x):
    q = p["d"]
    return dense(q, dense(q, x))


def one_scope_for_two_kinds_of_layer(p, x):
    q = p["d"]
    return fn.layer_norm(q, dense(q, x))  # both have a bias


def param_twice(p, x):
    return x * p.param("d", (4,), ONES) * p.param("d", (4,), ONES)


def variable_twice(p, x):
    return x * p.variable("d", (4,), ONES) * p.variable("d", (4,), ONES)


def child_and_param(p, x):
    return dense(p["d"], x) * p.param("d", (4,), ONES)


def param_and_child(p, x):
    return dense(p["d"], x * p.param("d", (4,), ONES))


def param_and_variable(p, x):
    return x * p.param("d", (4,), ONES) * p.variable("d", (4,), ONES)


def shared_and_child(p, x):
    return dense(p["d"], dense(p.shared("d"), x))


def child_and_shared(p, x):
    return dense(p.shared("d"), dense(p["d"], x))


def shared_and_param(p, x):
    return dense(p.shared("d"), x) * p.param("d", (4,), ONES)


def child_and_param_of_a_shared_scope(p, x):
    q = p.shared("d")
    return dense(q["it"], x) * q.param("it", (4,), ONES)


def twice_lifted(p, x):
    q = p["d"]
    return fn.repeat(fn.dense, 2)(q, fn.repeat(fn.dense, 2)(q, x, 4), 4)


def remat_twice(p, x):
    q = p["d"]
    return fn.remat(fn.dense)(q, fn.remat(fn.dense)(q, x, 4), 4)


def plain_and_remat(p, x):
    q = p["d"]
    return fn.remat(fn.dense)(q, dense(q, x), 4)


def remat_and_plain(p, x):
    q = p["d"]
    return dense(q, fn.remat(fn.dense)(q, x, 4))


def repeat_and_plain(p, x):
    q = p["d"]
    return dense(q, fn.repeat(fn.dense, 2)(q, x, 4))


def two_scans(p, x):
    x = scanned(lambda x: dense(p["d"], x), x)
    return scanned(lambda x: fn.relu(dense(p["d"], x)), x)


def one_body_in_two_scans(p, x):
    def body(x):
        return dense(p["d"], x)

    x = scanned(body, x)
    return scanned(body, x)


def one_scope_in_two_scans(p, x):
    q = p["d"]
    x = scanned(lambda x: dense(q, x), x)
    return scanned(lambda x: fn.relu(dense(q, x)), x)


def one_scope_in_two_vmaps(p, x):
    q = p["d"]
    return jax.vmap(lambda x: dense(q, x))(x) + jax.vmap(lambda x: -dense(q, x))(x)


def one_scope_at_home_and_in_a_scan(p, x):
    q = p["d"]
    return scanned(lambda x: dense(q, x), dense(q, x))


def scans_in_a_loop(p, x):
    for _ in range(2):
        x = scanned(lambda x: dense(p["d"], x), x)
    return x


def twice_in_one_scan(p, x):
    return scanned(lambda x: dense(p["d"], dense(p["d"], x)), x)


def loop_in_one_scan(p, x):
    def body(x):
        for _ in range(2):
            x = dense(p["d"], x)
        return x

    return scanned(body, x)


DUPLICATES = [
    child_twice,
    child_in_a_loop,
    one_scope_for_two_layers,
    one_scope_for_two_kinds_of_layer,
    param_twice,
    variable_twice,
    child_and_param,
    param_and_child,
    param_and_variable,
    shared_and_child,
    child_and_shared,
    shared_and_param,
    child_and_param_of_a_shared_scope,
    twice_lifted,
    remat_twice,
    plain_and_remat,
    remat_and_plain,
    repeat_and_plain,
    two_scans,
    one_body_in_two_scans,
    one_scope_in_two_scans,
    one_scope_in_two_vmaps,
    one_scope_at_home_and_in_a_scan,
    scans_in_a_loop,
    twice_in_one_scan,
    loop_in_one_scan,
]


@pytest.mark.parametrize("function", DUPLICATES, ids=lambda f: f.__name__)
def test_one_name_for_two_things_is_refused_by_init(function):
    with pytest.raises(ValueError, match=r"'d\b.*(twice|already|shared|two)"):
        closed(function).init(jax.random.key(0), X)


@pytest.mark.parametrize("function", [child_twice, one_scope_for_two_layers, two_scans])
def test_one_name_for_two_things_is_refused_by_apply(function):
    params = {"d": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
    with pytest.raises(ValueError, match=r"'d\b.*twice.*shared"):
        jax.jit(closed(function))(params, X)


def test_a_loop_body_that_jax_traces_twice_is_one_use():
    traces = []

    def doubled(p, x):
        def body(total, _):
            traces.append(total)
            return total + dense(p["d"], x).sum(), None

        return lax.scan(body, 0, None, length=2)[0]  # a weak int, which the body makes a float

    model = closed(doubled)
    params, _ = model.init(jax.random.key(0), X)
    before = len(traces)
    model(params, X)
    assert len(traces) - before == 2
    assert list(params) == ["d"]


# State and keys cannot leave a loop of the caller's; parameters alone work there.

TRANSFORMS = {
    "scan": scanned,
    "vmap": lambda f, x: jax.vmap(f)(x),
    "map": lambda f, x: lax.map(f, x),
    "cond": lambda f, x: lax.cond(x[0, 0] < 5, f, lambda x: x, x),
    "switch": lambda f, x: lax.switch((x[0, 0] > 5).astype(jnp.int32), [f, lambda x: x], x),
    "while": lambda f, x: lax.while_loop(lambda x: x.sum() < -1e9, f, x),
    "fori": lambda f, x: lax.fori_loop(0, 2, lambda _, x: f(x), x),
    "jit": lambda f, x: jax.jit(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,))[0],
    "linearize": lambda f, x: jax.linearize(f, x)[0],
    "vjp": lambda f, x: jax.vjp(f, x)[0],
}


def inside(transform, layer, *settings):
    """The layer at `it`, called inside a transformation of the caller's."""

    def outer(p, x):
        return TRANSFORMS[transform](lambda x: layer(p["it"], x, *settings), jnp.asarray(x))

    return closed(outer)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_state_inside_a_transformation_of_the_callers_is_refused(transform):
    model = inside(transform, fn.batch_norm)
    refused = pytest.raises(ValueError, match=r"batch_norm at 'it' keeps state.*fn\.repeat")
    with refused:
        model.init(jax.random.key(0), X)
    params = {"it": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    state = {"it": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}
    with pytest.raises(ValueError, match=r"batch_norm at 'it' keeps state.*fn\.repeat"):
        model.apply(params, state, X)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_keys_inside_a_transformation_of_the_callers_are_refused(transform):
    model = inside(transform, fn.dropout, 0.5)
    with pytest.raises(ValueError, match=r"dropout at 'it' draws random numbers.*fn\.repeat"):
        model.apply({}, {}, X, train=True, key=jax.random.key(0))
    model({}, X)  # evaluating, it draws none


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("jitted", [False, True])
def test_parameters_alone_work_inside_a_transformation(transform, jitted):
    model = inside(transform, fn.dense, 4)
    params, _ = model.init(jax.random.key(0), X)
    kernel, bias = params["it"]["kernel"], params["it"]["bias"]
    expected = TRANSFORMS[transform](lambda x: x @ kernel + bias, jnp.asarray(X))
    output = (jax.jit(model) if jitted else model)(params, X)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


LIFTS = {"repeat": lambda layer: fn.repeat(layer, 2), "remat": fn.remat}


@pytest.mark.parametrize("lift", LIFTS)
def test_a_lift_inside_a_scan_of_the_callers_takes_parameters_alone(lift):
    def lifted(layer, *settings):
        def outer(p, x):
            return scanned(lambda x: LIFTS[lift](layer)(p["it"], x, *settings), x)

        return closed(outer)

    params, _ = lifted(fn.dense, 4).init(jax.random.key(0), X)
    assert np.isfinite(lifted(fn.dense, 4)(params, X)).all()
    with pytest.raises(ValueError, match=r"keeps state.*fn\.repeat"):
        lifted(fn.batch_norm).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"draws random numbers.*fn\.repeat"):
        lifted(fn.dropout, 0.5).apply({}, {}, X, train=True, key=jax.random.key(0))


def test_gradients_flow_through_a_transformation_of_the_callers():
    model = inside("scan", fn.dense, 4)
    params, _ = model.init(jax.random.key(0), X)
    kernel, bias = params["it"]["kernel"], params["it"]["bias"]
    found = jax.grad(lambda params: model(params, X).sum())(params)["it"]["kernel"]
    expected = jax.grad(lambda kernel: ((X @ kernel + bias) @ kernel + bias).sum())(kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
