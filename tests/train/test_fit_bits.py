"""A run is a function of its seed: the same bits however steps are fused, cut, fed or processed."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, DATA, QUIET, STEP, Streamed, assert_same, host, sha256, start

import funnet as fn

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole():
    """Sixty steps, taken as `fit` takes them unless told otherwise."""
    return host(fn.fit(STEP, start(), BATCHES, steps=60, **QUIET))


@pytest.mark.parametrize("fuse", [1, 3, 64, 600, None])
def test_the_fusing_changes_no_bit(whole, fuse):
    assert_same(fn.fit(STEP, start(), BATCHES, steps=60, fuse=fuse, **QUIET), whole)


@pytest.mark.parametrize("fuse", [1, 3, None])
def test_batches_that_travel_step_by_step_change_no_bit(whole, fuse):
    assert_same(fn.fit(STEP, start(), Streamed(), steps=60, fuse=fuse, **QUIET), whole)


@pytest.mark.parametrize("cuts", [(17,), (1, 2, 59), (4, 30)])
def test_a_training_that_is_cut_is_the_same(whole, cuts):
    run = start()
    for steps in (*cuts, 60):
        run = fn.fit(STEP, run, BATCHES, steps=steps, **QUIET)
        assert int(run.step) == steps
    assert_same(run, whole)


def test_a_training_resumed_from_a_file_is_the_same(whole, tmp_path):
    run = fn.fit(STEP, start(), Streamed(), steps=23, fuse=4, **QUIET)
    fn.save(tmp_path / "run.safetensors", run)
    run = fn.load(tmp_path / "run.safetensors", like=start(seed=1))
    assert_same(fn.fit(STEP, run, BATCHES, steps=60, **QUIET), whole)


def test_pauses_to_validate_change_no_bit(whole):
    told = []
    run = fn.fit(
        STEP,
        start(),
        BATCHES,
        steps=60,
        validate=lambda run: told.append(int(run.step)) or {},
        validate_every=7,
        **QUIET,
    )
    assert_same(run, whole)
    assert told == [7, 14, 21, 28, 35, 42, 49, 56, 60]


def test_a_run_of_numpy_arrays_is_the_same(whole):
    assert_same(fn.fit(STEP, host(start()), BATCHES, steps=60, **QUIET), whole)


def test_the_seed_matters(whole):
    other = fn.fit(STEP, start(seed=1), BATCHES, steps=60, **QUIET)
    assert sha256(other.params).digest() != sha256(whole.params).digest()
    shuffled = fn.data.batches(DATA, 16, seed=1)
    other = fn.fit(STEP, start(), shuffled, steps=60, **QUIET)
    assert sha256(other.params).digest() != sha256(whole.params).digest()


SCRIPT = """
import sys
import funnet as fn
from toys import BATCHES, QUIET, STEP, Streamed, sha256, start
fuse = int(sys.argv[1]) or None
batches = Streamed() if sys.argv[2] == "streamed" else BATCHES
run = fn.fit(STEP, start(seed=5), batches, steps=200, fuse=fuse, **QUIET)
print(sha256(run).hexdigest())
"""


def test_two_processes_get_the_same_bits_and_so_does_this_one():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *how],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        for how in (("0", "resident"), ("1", "streamed"))
    ]
    digests = {process.communicate(timeout=300)[0].strip() for process in processes}
    run = fn.fit(STEP, start(seed=5), BATCHES, steps=200, **QUIET)
    assert digests == {sha256(run).hexdigest()}


# What each step is given


def telling(run, batch):
    """A step that reports what it was given and drawn."""
    mask = jax.random.bernoulli(run.key(), 0.5, (16,))
    return run.next(), {"id": batch["id"], "at": run.step, "mask": mask}


def blank(step=0):
    return fn.Run({}, {}, (), jnp.int32(step), jnp.uint32(0))


class Memory:
    """A source without end that remembers nothing: one number a step."""

    def __getitem__(self, step):
        return {"id": np.full(3, step, np.int32)}


@pytest.mark.parametrize("fuse", [1, 5, None])
@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_step_i_is_given_batch_i_and_draws_anew(kind, fuse, tmp_path, lines):
    batches = BATCHES if kind == "resident" else Streamed()
    run = blank()
    for steps in (9, 23):
        run = fn.fit(
            telling, run, batches, steps=steps, fuse=fuse, folder=tmp_path, log_every=1, **QUIET
        )
    told = lines(tmp_path)
    assert [line["step"] for line in told] == list(range(1, 24))
    for i, line in enumerate(told):
        assert (line["at"], line["id"]) == (i, BATCHES[i]["id"].tolist())
    assert len({tuple(line["mask"]) for line in told}) == 23


def test_a_far_step_is_reached_at_once(tmp_path, lines):
    batches = fn.data.batches(DATA, 16)
    run = fn.fit(telling, blank(10**6), batches, steps=10**6 + 3, folder=tmp_path, **QUIET)
    assert int(run.step) == 10**6 + 3
    (line,) = lines(tmp_path)
    expected = np.mean([batches[10**6 + i]["id"] for i in range(3)], axis=0)
    np.testing.assert_allclose(line["id"], expected, rtol=1e-12)


def test_a_source_is_asked_for_the_steps_it_is_needed_for():
    source = Streamed()
    fn.fit(telling, blank(7), source, steps=12, **QUIET)
    assert set(source.asked) - {0} == {7, 8, 9, 10, 11}


def test_any_source_of_dicts_will_do(tmp_path, lines):
    run = fn.fit(telling, blank(), Memory(), steps=600, folder=tmp_path, log_every=600, **QUIET)
    assert int(run.step) == 600
    assert lines(tmp_path)[0]["id"] == [299.5] * 3
