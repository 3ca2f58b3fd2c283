"""Meta-learning: sines as they should be, gradients through gradients, a training and its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recipes import meta


def test_tasks_are_sines_within_their_bounds():
    x, y = (np.asarray(z, np.float64)[..., 0] for z in meta.sines(jax.random.key(0), 200, 30))
    assert x.shape == y.shape == (200, 30)
    assert (np.abs(x) <= 5).all()
    for one, values in zip(x, y, strict=True):  # y = a sin x + b cos x, by least squares
        waves = np.stack([np.sin(one), np.cos(one)], 1)
        (a, b), *_ = np.linalg.lstsq(waves, values, rcond=None)
        np.testing.assert_allclose(waves @ [a, b], values, atol=1e-5)
        assert 0.1 - 1e-4 <= np.hypot(a, b) <= 5 + 1e-4
        assert -1e-4 <= np.arctan2(-b, a) <= np.pi + 1e-4


def network(params, x):
    """Two hidden layers with ReLU, in float64: the output and what the backward pass needs."""
    hidden = []
    for name in ("hidden0", "hidden1"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        hidden.append(x)
    return x @ params["head"]["kernel"] + params["head"]["bias"], hidden


def error(params, x, y):
    return np.square(network(params, x)[0] - y).mean()


def descended(params, x, y, rate):
    """A step of gradient descent with the gradient by hand."""
    found, (first, second) = network(params, x)
    flow, new = 2 * (found - y) / len(x), {}
    for name, given in (("head", second), ("hidden1", first), ("hidden0", x)):
        layer = params[name]
        slope = {"kernel": given.T @ flow, "bias": flow.sum(0)}
        new[name] = {key: layer[key] - rate * slope[key] for key in layer}
        flow = (flow @ layer["kernel"].T) * (given > 0)
    return new


@pytest.fixture(scope="module")
def task():
    params, _ = meta.MODEL.init(jax.random.key(1), jnp.ones((1, 1)))
    x, y = meta.sines(jax.random.key(2), 3, 16)
    wide = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    return params, (x, y), wide


def test_errors_are_those_of_descent_by_hand(task):
    params, (x, y), wide = task
    found = meta.errors(params, (x, y), 10, 0.01, 3)
    curves = []
    for a, b in zip(*(np.asarray(z, np.float64) for z in (x, y)), strict=True):
        own, curve = wide, []
        for _ in range(4):
            curve.append(error(own, a[10:], b[10:]))
            own = descended(own, a[:10], b[:10], 0.01)
        curves.append(curve)
    np.testing.assert_allclose(found, np.mean(curves, 0), rtol=1e-4)


def test_the_gradient_goes_through_the_steps(task):
    """Along a direction: the slope is the finite difference of descent by hand, in float64."""
    params, (x, y), wide = task
    shots, rest = (x[0, :10], y[0, :10]), (x[0, 10:], y[0, 10:])
    way = jax.tree.map(lambda w: np.cos(np.arange(w.size).reshape(w.shape)), wide)

    def after(params):
        return meta.error(meta.adapted(meta.adapted(params, shots, 0.01), shots, 0.01), rest)

    gradient = jax.jit(jax.grad(after))(params)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
    slope = sum(np.vdot(np.asarray(g, np.float64), w) for g, w in pairs)

    def by_hand(move):
        own = jax.tree.map(lambda w, v: w + move * v, wide, way)
        given = [np.asarray(z, np.float64) for z in shots]
        for _ in range(2):
            own = descended(own, *given, 0.01)
        return error(own, *(np.asarray(z, np.float64) for z in rest))

    expected = (by_hand(1e-6) - by_hand(-1e-6)) / 2e-6
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


def test_the_check_passes_and_is_finished_the_second_time(tmp_path, capsys):
    settings = meta.Settings(check=True, folder=tmp_path)
    found = meta.main(settings)
    assert "claimed at most 0.5" in capsys.readouterr().out
    assert found.keys() == {"MAML", "pretrained", "from scratch"}
    assert {p.name for p in tmp_path.iterdir()} == {"maml", "pretrained", "sines.png"}
    before = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("maml", "pretrained")]
    assert meta.main(settings) == found
    after = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("maml", "pretrained")]
    assert after == before
