"""`on_nonfinite="skip"`: refused steps are passed over, as if they had been left out by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, QUIET, STEP, Streamed, assert_same, start

import funnet as fn
from funnet.train.training import SKIPS

STEPS = 24


class Spoilt(Streamed):
    """Batches of which some are no good."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __getitem__(self, step):
        batch = super().__getitem__(step)
        return {**batch, "image": batch["image"] * np.float32(np.inf if step in self.bad else 1)}

    def identity(self):
        return {"bad": sorted(self.bad)}


def fit(bad, run=None, **how):
    how = {"steps": STEPS, "on_nonfinite": "skip", **QUIET, **how}
    return fn.fit(STEP, start() if run is None else run, Spoilt(bad), **how)


def by_hand(bad):
    """The good steps only; the step's number goes on all the same."""
    run = start()
    for step in range(STEPS):
        if step in bad:
            run = dataclasses.replace(run, step=jnp.int32(step + 1))
        else:
            run = fn.fit(STEP, run, BATCHES, steps=step + 1, **QUIET)
    return run


@pytest.mark.parametrize("bad", [{3}, {0, 1, 2}, {7, 8, 15, 23}, set()], ids=str)
def test_refused_steps_are_left_out(bad):
    expected = by_hand(bad)
    for fuse in (1, 5, None):
        assert_same(fit(bad, fuse=fuse), expected)
    assert int(expected.step) == STEPS


def test_refused_steps_are_counted_and_their_numbers_are_not(tmp_path, lines):
    fit({7, 8, 15, 23}, folder=tmp_path, log_every=8)
    told = lines(tmp_path)
    assert [(line["step"], line.get("skipped", 0)) for line in told] == [(8, 1), (16, 2), (24, 1)]
    assert all(np.isfinite(line["loss"]) for line in told)


def test_a_training_that_skips_goes_on(tmp_path):
    bad = {3, 7, 8, 15}
    for steps in (8, 15, STEPS):
        run = fit(bad, folder=tmp_path, steps=steps, save_every=3)
    assert_same(run, by_hand(bad))


@pytest.mark.parametrize("fuse", [1, 64, None])
@pytest.mark.parametrize("cut", [False, True])
def test_a_hundred_in_a_row_stop_it(fuse, cut):
    first = 5
    bad, run = set(range(first, first + SKIPS)), None
    if cut:
        run = fit(bad, steps=first)
    with pytest.raises(ValueError, match=rf"step {first + SKIPS - 1} was refused: ") as caught:
        fit(bad, run, steps=300, fuse=fuse)
    assert any("100 steps in a row" in note for note in caught.value.__notes__)
    assert int(caught.value.run.step) == first + SKIPS
    assert_same(caught.value.run.params, fit(set(), steps=first).params)
    assert int(fit(bad - {first + 50}, steps=300).step) == 300


def test_a_step_that_never_moves_on_is_not_passed_over_for_ever():
    def stuck(run, batch):
        return run, {"loss": jnp.float32(1)}

    def hasty(run, batch):
        return run.next().next(), {"loss": jnp.float32(1)}

    for step, at in ((stuck, SKIPS - 1), (hasty, 0)):
        with pytest.raises(ValueError, match=rf"step {at} was refused: .*no later"):
            fn.fit(step, start(), BATCHES, steps=10**6, on_nonfinite="skip", **QUIET)
