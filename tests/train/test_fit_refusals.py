"""A training that goes wrong stops with the run before the trouble and a message that says why."""

import signal

import jax
import jax.numpy as jnp
import pytest
from toys import (
    BATCHES,
    DATA,
    LINEAR_STEP,
    QUIET,
    STEP,
    Streamed,
    assert_same,
    host,
    linear_start,
    start,
)

import funnet as fn

BAD_ROW = 17


def spoilt(label=None, pixel=None):
    """Batches of which one row is no good, and the first step that meets it."""
    data = {name: array.copy() for name, array in DATA.items()}
    if label is not None:
        data["label"][BAD_ROW] = label
    if pixel is not None:
        data["image"][BAD_ROW, 0] = pixel
    batches = fn.data.batches(data, 16)
    step = next(i for i in range(4) if BAD_ROW in batches[i]["id"])
    return batches, step, batches[step]["id"].tolist().index(BAD_ROW)


def refused(step, run, batches, **how):
    with pytest.raises(ValueError, match="was refused") as caught:
        fn.fit(step, run, batches, **{"steps": 30, **QUIET, **how})
    return caught.value


@pytest.mark.parametrize("label", [-1, 3, 1000])
@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_a_label_that_is_no_class_is_named_with_its_step_value_and_row(label, kind):
    batches, at, row = spoilt(label=label)
    source = batches if kind == "resident" else Streamed(batches)
    error = refused(LINEAR_STEP, linear_start(), source)
    message = str(error)
    assert message.startswith(f"step {at} was refused: ")
    assert "loss is nan" in message
    assert f"labels[{row}] is {label}, expected 0 <= labels <= 2" in message
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("fuse", [1, 3, None])
def test_the_error_carries_the_run_as_it_was_before_the_step(fuse):
    batches, at, _ = spoilt(label=9)
    run = start()
    before = host(run)
    error = refused(STEP, run, batches, fuse=fuse)
    assert int(error.run.step) == at
    assert_same(error.run, fn.fit(STEP, start(), batches, steps=at, **QUIET))
    assert_same(run, before)
    assert any("attribute run" in note for note in error.__notes__)


def test_training_goes_on_from_the_run_that_the_error_carries():
    batches, at, _ = spoilt(label=9)
    error = refused(STEP, start(), batches)
    good = fn.fit(STEP, error.run, BATCHES, steps=20, **QUIET)
    run = fn.fit(STEP, start(), batches, steps=at, **QUIET)
    assert_same(good, fn.fit(STEP, run, BATCHES, steps=20, **QUIET))


def test_a_loss_that_is_no_number_is_told_though_no_cause_is_known():
    batches, at, _ = spoilt(pixel=3e38)
    error = refused(LINEAR_STEP, linear_start(), batches)
    assert str(error).startswith(f"step {at} was refused: ")
    assert "gradient_norm is" in str(error)
    assert "because" not in str(error)
    assert error.__cause__ is None
    assert int(error.run.step) == at


def test_the_step_that_is_refused_may_be_the_first_or_the_last():
    batches, at, _ = spoilt(label=9)
    run = fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=at, **QUIET)
    assert int(refused(LINEAR_STEP, run, batches, steps=at + 1).run.step) == at


def test_what_was_done_before_the_refusal_is_logged_however_steps_are_fused(tmp_path, lines):
    batches, at, _ = spoilt(label=9)
    assert at > 0
    for fuse in (1, 64):
        folder = tmp_path / str(fuse)
        refused(LINEAR_STEP, linear_start(), batches, fuse=fuse, folder=folder, log_every=1)
        assert [line["step"] for line in lines(folder)] == list(range(1, at + 1))


def test_a_step_that_does_not_count_is_an_error_that_says_so():
    def forgetful(run, batch):
        return run, {"loss": jnp.float32(1)}

    message = str(refused(forgetful, linear_start(), BATCHES))
    assert message.startswith("step 0 was refused: ")
    assert "no later" in message
    assert "run.next(...)" in message


def test_a_step_that_counts_twice_is_an_error():
    def hasty(run, batch):
        return run.next().next(), {"loss": jnp.float32(1)}

    assert "step" in str(refused(hasty, linear_start(), BATCHES))


def test_a_step_of_one_s_own_may_be_guarded():
    def guarded(run, batch):
        loss = jnp.where(run.step == 6, jnp.inf, jnp.float32(run.params))
        return fn.guarded(run, run.next(params=run.params + 1), loss), {"loss": loss}

    run = fn.Run(jnp.float32(0), {}, (), jnp.int32(0), jnp.uint32(0))
    error = refused(guarded, run, BATCHES)
    assert str(error) == "step 6 was refused: loss is inf"
    assert (int(error.run.step), float(error.run.params)) == (6, 6.0)


def test_an_eager_step_that_fails_otherwise_does_not_hide_the_refusal():
    def strange(run, batch):
        if not isinstance(batch["image"], jax.core.Tracer):
            raise RuntimeError("only under jit")
        return LINEAR_STEP(run, batch)

    batches, at, _ = spoilt(label=9)
    assert str(refused(strange, linear_start(), batches)).startswith(f"step {at} was refused")


# Arguments

WRONG = {
    "neither": ({}, "give either epochs or steps"),
    "both": ({"steps": 1, "epochs": 1}, "either epochs or steps, got epochs=1, steps=1"),
    "steps below 0": ({"steps": -1}, "must not be negative, got -1 steps"),
    "epochs below 0": ({"epochs": -1}, "must not be negative"),
    "half a step": ({"steps": 2.5}, "steps"),
    "a float of steps": ({"steps": 10.0}, "steps"),
    "text": ({"steps": "3"}, "steps"),
    "NaN epochs": ({"epochs": float("nan")}, "epochs"),
    "endless epochs": ({"epochs": float("inf")}, "epochs"),
    "log_every": ({"steps": 2, "log_every": 0}, "log_every"),
    "log_every below": ({"steps": 2, "log_every": -5}, "log_every"),
    "fuse 0": ({"steps": 2, "fuse": 0}, "fuse"),
    "fuse below": ({"steps": 2, "fuse": -1}, "fuse"),
    "half a fuse": ({"steps": 2, "fuse": 1.5}, "fuse"),
    "validate_every": (
        {"steps": 2, "validate": lambda run: {}, "validate_every": 0},
        "validate_every",
    ),
    "half of validate_every": (
        {"steps": 2, "validate": lambda run: {}, "validate_every": 1.5},
        "validate_every",
    ),
}


@pytest.fixture
def impatient():
    """Ends a test that would hang."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    old = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named_before_anything_is_done(case, tmp_path, impatient):
    how, words = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=words):
        fn.fit(LINEAR_STEP, linear_start(), BATCHES, folder=tmp_path / "new", **QUIET, **how)
    assert not (tmp_path / "new").exists()


def test_epochs_need_batches_that_have_some():
    with pytest.raises(ValueError, match="give steps for another source"):
        fn.fit(LINEAR_STEP, linear_start(), Streamed(), epochs=2, **QUIET)


def test_a_source_that_ends_is_not_taken_for_the_end_of_training():
    with pytest.raises(IndexError):
        fn.fit(LINEAR_STEP, linear_start(), [BATCHES[i] for i in range(3)], steps=9, **QUIET)


def test_data_that_was_not_cut_into_batches_says_what_to_type():
    with pytest.raises((ValueError, TypeError), match=r"batches"):
        fn.fit(LINEAR_STEP, linear_start(), DATA, steps=3, **QUIET)


def test_a_step_that_gives_no_metrics_says_what_it_must_give():
    def bare(run, batch):
        return run.next()

    with pytest.raises(TypeError, match=r"\(run, metrics\)"):
        fn.fit(bare, linear_start(), BATCHES, steps=3, **QUIET)


@pytest.mark.parametrize(
    "change",
    [
        lambda params: jax.tree.map(lambda x: x.astype(jnp.bfloat16), params),
        lambda params: jax.tree.map(lambda x: x[None], params),
        lambda params: {},
    ],
    ids=["dtype", "shape", "structure"],
)
def test_a_step_that_changes_what_a_run_is_says_where(change):
    def changing(run, batch):
        return run.next(params=change(run.params)), {}

    with pytest.raises(TypeError, match=r"params"):
        fn.fit(changing, linear_start(), BATCHES, steps=3, **QUIET)


# Whatever goes wrong, no training is lost.


class Failing(Streamed):
    """A source that breaks at step 5."""

    def __getitem__(self, step):
        if step == 5:
            raise OSError("the disk is gone")
        return super().__getitem__(step)


def failing_validation(error):
    def validate(run):
        raise error

    return {"validate": validate, "validate_every": 4}


FAILURES = {
    "the source": (5, OSError, {"batches": Failing()}),
    "validation": (4, ZeroDivisionError, failing_validation(ZeroDivisionError())),
    "Ctrl-C": (4, KeyboardInterrupt, failing_validation(KeyboardInterrupt())),
    "validation's numbers": (4, TypeError, {"validate": lambda run: 3}),
}


@pytest.mark.parametrize("case", FAILURES)
def test_any_exception_carries_the_run_as_it_stood(case):
    steps, kind, how = FAILURES[case]
    run = linear_start()
    before = host(run)
    with pytest.raises(kind) as caught:
        fn.fit(LINEAR_STEP, run, **{"batches": BATCHES, "steps": 9, "fuse": 2, **QUIET, **how})
    assert any("attribute run" in note for note in caught.value.__notes__)
    done = caught.value.run
    assert int(done.step) == steps
    assert_same(done, fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=steps, **QUIET))
    assert_same(run, before)


def test_ctrl_c_in_the_midst_of_steps_carries_a_run_that_can_go_on():
    met = []

    class Interrupted(Streamed):
        def __getitem__(self, step):
            met.append(step)
            if len(met) == 20:
                raise KeyboardInterrupt
            return super().__getitem__(step)

    with pytest.raises(KeyboardInterrupt) as caught:
        fn.fit(STEP, start(), Interrupted(), steps=60, fuse=3, **QUIET)
    run = fn.fit(STEP, caught.value.run, BATCHES, steps=60, **QUIET)
    assert_same(run, fn.fit(STEP, start(), BATCHES, steps=60, **QUIET))


def test_an_error_while_tracing_carries_the_run_that_was_given():
    def broken(run, batch):
        raise LookupError("no such thing")

    with pytest.raises(LookupError) as caught:
        fn.fit(broken, linear_start(), BATCHES, steps=3, **QUIET)
    assert_same(caught.value.run, linear_start())
