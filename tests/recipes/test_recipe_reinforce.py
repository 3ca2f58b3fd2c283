"""The pole: physics against a linear system in float64, where games end, a training that is cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from recipes import reinforce

pytestmark = pytest.mark.usefixtures("quick_compilation")


def accelerations(speed, angle, spin, force):
    """Of cart and pole, from Lagrange's equations: two equations for two unknowns, in float64.

    The pole is a rod of 2 l about its end on the cart: its moment of inertia is 4/3 m l^2.
    """
    cart, pole, half, gravity = 1.0, 0.1, 0.5, 9.8
    matrix = [
        [cart + pole, pole * half * np.cos(angle)],
        [pole * half * np.cos(angle), 4 / 3 * pole * half**2],
    ]
    pulls = [force + pole * half * spin**2 * np.sin(angle), pole * gravity * half * np.sin(angle)]
    return np.linalg.solve(matrix, pulls)


def reference(body, right):
    """A tick of 0.02 s by Euler's rule."""
    _, speed, angle, spin = body
    push, turn = accelerations(speed, angle, spin, 10.0 if right else -10.0)
    return np.array(body) + 0.02 * np.array([speed, push, spin, turn])


def test_a_tick_is_that_of_lagranges_equations():
    rng = np.random.default_rng(0)
    bodies = rng.uniform(-1, 1, (200, 4)) * [2.4, 3, 0.3, 4]
    right = rng.random(200) < 0.5
    expected = [reference(*each) for each in zip(bodies, right, strict=True)]
    found = jax.vmap(reinforce.moved)(jnp.asarray(bodies, jnp.float32), jnp.asarray(right))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def replayed(seen, games):
    """Each game in float64, by what was chosen: how many turns until it was over."""
    ends = []
    for body, choices in zip(games[0], np.asarray(seen["right"]).T, strict=True):
        body, turns = np.asarray(body, float), 0
        for right in choices:
            body, turns = reference(body, right), turns + 1
            if abs(body[0]) > 2.4 or abs(body[2]) > 12 * 2 * np.pi / 360:
                break
        ends.append(turns)
    return ends


@pytest.fixture(scope="module")
def start():
    run = fn.Run.start(reinforce.MODEL, reinforce.OPTIMIZER, jnp.zeros((1, 4)))
    return dataclasses.replace(run, state=reinforce.begun(run.key("games"), 16))


def test_games_end_where_the_reference_ends_and_begin_anew(start):
    games, seen = reinforce.played(start.params, start.state, jax.random.key(1), 200)
    over = np.asarray(seen["over"])
    ends = 1 + over.argmax(0)
    assert over.any(0).all()
    assert ends.tolist() == replayed(seen, start.state)
    for i, end in enumerate(ends):
        assert np.abs(seen["body"][end, i]).max() <= 0.05
        assert seen["following"][end - 1, i] == 0
    last = 199 - over[::-1].argmax(0)
    assert np.asarray(games[1]).tolist() == (199 - last).tolist()


def test_a_game_is_stopped_at_the_limit_but_is_worth_something(start):
    games = jnp.zeros((3, 4)), jnp.array([498, 499, 0], jnp.int32)
    (body, time), seen = reinforce.played(start.params, games, jax.random.key(2), 1)
    assert np.asarray(seen["over"]).tolist() == [[False, True, False]]
    assert np.asarray(time).tolist() == [499, 0, 1]
    after = jax.vmap(reinforce.moved)(games[0], seen["right"][0])
    value = reinforce.MODEL(start.params, after)[:, 1]
    np.testing.assert_allclose(seen["following"][0], value, rtol=1e-5)
    assert np.abs(body[1]).max() <= 0.05


def test_at_first_the_gradient_is_that_of_the_policy(start):
    """Where nothing has changed yet: the critic's error and doubt aside, `-a grad log p`."""
    _, seen = reinforce.played(start.params, start.state, jax.random.key(3), 4)
    batch = {name: x.reshape(-1, *x.shape[2:]) for name, x in seen.items()}
    gain = jax.random.normal(jax.random.key(4), batch["value"].shape)
    batch |= {"advantage": gain, "target": batch["value"]}

    def plain(params):
        logit = reinforce.MODEL(params, batch["body"])[:, 0]
        p = jax.nn.sigmoid(logit)
        chance = jnp.log(jnp.where(batch["right"], p, 1 - p))
        doubt = -p * jnp.log(p) - (1 - p) * jnp.log(1 - p)
        return (-gain * chance - 0.01 * doubt).mean()

    ours = lambda params: reinforce.objective(params, {}, batch, train=True, key=None)[0]  # noqa: E731
    found, expected = (jax.jit(jax.grad(f))(start.params) for f in (ours, plain))
    compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(compare, found, expected)


def test_a_training_that_is_cut_goes_on_to_the_same_bits(start, tmp_path):
    whole = fn.fit(reinforce.step, start, None, steps=3)
    fn.fit(reinforce.step, start, None, steps=1, folder=tmp_path)
    cut = fn.fit(reinforce.step, start, None, steps=3, folder=tmp_path)
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_check_passes_and_is_finished_the_second_time(tmp_path, capsys):
    settings = reinforce.Settings(check=True, folder=tmp_path)
    mean = reinforce.main(settings)
    assert "claimed at least 100" in capsys.readouterr().out
    assert {"games.png", "metrics.jsonl", "checkpoints"} <= {p.name for p in tmp_path.iterdir()}
    before = (tmp_path / "metrics.jsonl").read_text()
    assert reinforce.main(settings) == mean
    assert (tmp_path / "metrics.jsonl").read_text() == before
