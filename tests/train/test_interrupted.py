"""A training that ends in an exception leaves its run in its folder, to go on from."""

import json

import jax
import pytest
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, assert_same, host, linear_start

import funnet as fn
from funnet.store.checkpoints import Checkpoints

STEPS = 9


class Broken(Exception):
    """What goes wrong."""


def fit(folder, **how):
    how = {"batches": BATCHES, "steps": STEPS, "folder": folder, "fuse": 2, **QUIET, **how}
    return fn.fit(LINEAR_STEP, linear_start(), **how)


@pytest.fixture(scope="module")
def whole():
    return host(fit(None))


def broken(*_):
    raise Broken("it broke")


class BrokenSource(Streamed):
    def __getitem__(self, step):
        return broken() if step == 4 else super().__getitem__(step)

    def identity(self):
        return BATCHES.identity()


class Unreachable(OSError):
    """A server of hooks that is gone."""


def unreachable(*_):
    raise Unreachable("no such server")


PLACES = {
    "validation": (Broken, {"validate": broken, "validate_every": 4}),
    "a source": (Broken, {"batches": BrokenSource()}),
    "a hook": (Broken, {"hooks": [broken], "log_every": 4}),
    "a hook of the network": (Unreachable, {"hooks": [unreachable], "log_every": 4}),
}


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
@pytest.mark.parametrize("place", PLACES)
def test_the_run_is_saved_and_the_same_command_goes_on(tmp_path, whole, place, on_save_error):
    kind, how = PLACES[place]
    with pytest.raises(kind) as caught:
        fit(tmp_path, on_save_error=on_save_error, **how)
    assert int(caught.value.run.step) == 4
    note = f"it is saved in {tmp_path}: the same command goes on from step 4"
    assert note in caught.value.__notes__
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["kind"]) == (4, "train")  # though a full line is of 100 steps
    assert_same(fn.restore(tmp_path, like=linear_start()), caught.value.run)
    assert_same(fit(tmp_path), whole)


def test_an_error_before_the_first_step_has_the_run_that_was_given(tmp_path):
    class Missing:
        def __getitem__(self, step):
            raise Broken

    for folder in (tmp_path, None):
        with pytest.raises(Broken) as caught:
            fit(folder, batches=Missing())
        assert_same(caught.value.run, linear_start())


def test_an_error_while_tracing_has_the_run_that_was_given(tmp_path):
    with pytest.raises(Broken) as caught:
        fn.fit(broken, linear_start(), BATCHES, steps=3, folder=tmp_path, **QUIET)
    assert_same(caught.value.run, linear_start())


def test_a_save_that_fails_too_hides_no_error(tmp_path, monkeypatch):
    write = Checkpoints.write

    def full(self, step, *what):
        if step == 4:
            raise OSError(28, "No space left on device")
        return write(self, step, *what)

    monkeypatch.setattr(Checkpoints, "write", full)
    with pytest.raises(Broken) as caught:
        fit(tmp_path, validate=broken, validate_every=4)
    (note,) = [note for note in caught.value.__notes__ if "saved" in note]
    assert note == (
        f"it could not be saved in {tmp_path} ([Errno 28] No space left on device); "
        "the last checkpoint is of step 0"
    )
    assert int(caught.value.run.step) == 4


def test_an_end_that_fails_too_hides_no_error(tmp_path):
    def hook(step, kind, numbers):
        raise LookupError("no such thing")

    with pytest.raises(Broken) as caught:
        fit(tmp_path, validate=broken, validate_every=4, hooks=[hook])
    assert int(caught.value.run.step) == 4


def test_what_a_callback_raises_leaves_the_last_checkpoint(tmp_path):
    def loud(step):
        if step == 6:
            raise Broken("in the midst of a step")
        return step

    def step(run, batch):
        at = jax.pure_callback(loud, jax.ShapeDtypeStruct((), "int32"), run.step)
        return run.next(params=run.params + at), {}

    run = fn.Run(jax.numpy.int32(0), {}, (), jax.numpy.int32(0), jax.numpy.uint32(0))
    with pytest.raises(Exception, match="in the midst of a step") as caught:
        fn.fit(step, run, BATCHES, steps=9, save_every=4, fuse=1, folder=tmp_path, **QUIET)
    told = f"it could not be saved in {tmp_path} (it was lost in a step); "
    assert told + "the last checkpoint is of step 4" in caught.value.__notes__
    assert int(fn.restore(tmp_path, like=run).params) == sum(range(4))
