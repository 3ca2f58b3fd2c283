"""What a training tells: exact lines in `metrics.jsonl`, whatever cuts it, and hooks."""

import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import BATCHES, LINEAR_STEP, QUIET, linear_start

import funnet as fn
from funnet.metrics import Mean, Sum
from funnet.train.log import Log


def blank(step=0):
    return fn.Run({}, {}, (), jnp.int32(step), jnp.uint32(0))


def told(lines, folder):
    """The lines, without the one thing that no two trainings share."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder)]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A training's metrics, step by step, as numbers in 64 bits."""
    folder = tmp_path_factory.mktemp("single")
    fit(folder, steps=23, log_every=1, fuse=1)
    return folder


def fit(folder, run=None, batches=BATCHES, **how):
    run = linear_start() if run is None else run
    return fn.fit(LINEAR_STEP, run, batches, folder=folder, **{**QUIET, **how})


@pytest.mark.parametrize("fuse", [1, 3, 64, None])
@pytest.mark.parametrize("every", [1, 5, 10, 23, 100])
def test_a_line_is_the_mean_of_its_steps_however_they_are_fused(
    tmp_path, single, lines, every, fuse
):
    fit(tmp_path, steps=23, log_every=every, fuse=fuse)
    steps = told(lines, single)
    assert [line["step"] for line in steps] == list(range(1, 24))
    ends = sorted({*range(every, 24, every), 23})
    assert [line["step"] for line in lines(tmp_path)] == ends
    for begin, line in zip([0, *ends], lines(tmp_path), strict=False):
        part = steps[begin : line["step"]]
        assert line["kind"] == "train"
        for name in ("loss", "accuracy", "gradient_norm"):
            mean = np.mean([one[name] for one in part])
            np.testing.assert_allclose(line[name], mean, rtol=1e-12, err_msg=name)


def test_the_lines_do_not_depend_on_the_fusing_to_the_last_digit(tmp_path, lines):
    for fuse in (1, 7, None):
        fit(tmp_path / str(fuse), steps=23, log_every=10, fuse=fuse)
    assert told(lines, tmp_path / "1") == told(lines, tmp_path / "7")
    assert told(lines, tmp_path / "1") == told(lines, tmp_path / "None")


def test_numbers_are_right_from_the_first_step(single, lines):
    _, expected = jax.jit(LINEAR_STEP)(linear_start(), BATCHES[0])
    first = lines(single)[0]
    np.testing.assert_allclose(first["loss"], expected["loss"].value, rtol=1e-5)
    np.testing.assert_allclose(first["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(first["accuracy"], expected["accuracy"].value, rtol=1e-6)


def test_seconds_grow_and_the_order_of_fields_is_for_readers(tmp_path, lines):
    fit(tmp_path, steps=23, log_every=5)
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[-1] < 600
    assert all(list(line)[:3] == ["step", "kind", "seconds"] for line in lines(tmp_path))


def test_a_training_that_goes_on_goes_on_writing(tmp_path, single, lines):
    run = fit(tmp_path, steps=12, log_every=5)
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 12]
    fit(tmp_path, run, steps=23, log_every=5)
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 15, 20, 23]
    third = [line["loss"] for line in lines(single)][10:15]
    np.testing.assert_allclose(lines(tmp_path)[2]["loss"], np.mean(third), rtol=1e-12)


def test_a_training_from_step_0_puts_what_is_there_aside(tmp_path, lines):
    for steps in (3, 4, 5):
        fit(tmp_path / "run", steps=steps)
        shutil.rmtree(tmp_path / "run" / "checkpoints")  # else it would go on
    names = ("metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl")
    assert sorted(p.name for p in (tmp_path / "run").glob("*.jsonl")) == list(names)
    assert [lines(tmp_path / "run", name)[0]["step"] for name in names] == [3, 4, 5]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(None, steps=3)
    fit("runs/here", steps=3)
    assert [str(p) for p in pathlib.Path().rglob("*.jsonl")] == ["runs/here/metrics.jsonl"]


def test_lines_are_there_as_soon_as_they_are_known(tmp_path, lines):
    met = []
    fit(
        tmp_path,
        steps=6,
        log_every=2,
        validate=lambda run: met.append(len(lines(tmp_path))) or {"score": 1},
        validate_every=2,
    )
    assert met == [1, 3, 5]


# Kinds of numbers


def test_metrics_may_be_of_any_kind(tmp_path, lines):
    def step(run, batch):
        return run.next(), {
            "float": run.step * jnp.int32(3) / jnp.int32(2),
            "int": run.step,
            "bool": run.step > 1,
            "half": run.step.astype(jnp.bfloat16),
            "python": 0.5,
            "vector": jnp.stack([run.step, run.step**2]),
            "matrix": Sum(jnp.full((2, 2), run.step)),
            "mean": Mean(run.step, jnp.int32(2)),
            "large": Sum(jnp.int32(2**30)),
        }

    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **QUIET)
    assert told(lines, tmp_path) == [
        {
            "step": 4,
            "kind": "train",
            "float": 2.25,
            "int": 1.5,
            "bool": 0.5,
            "half": 1.5,
            "python": 0.5,
            "vector": [1.5, 3.5],
            "matrix": [[6, 6], [6, 6]],
            "mean": 0.75,
            "large": 2**32,
        }
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_json_all_the_same(tmp_path, lines, value):
    def step(run, batch):
        return run.next(), {"odd": jnp.float32(value), "odds": jnp.full(2, value, jnp.float32)}

    how = {"validate": lambda run: {"odd": float(value)}}
    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **how, **QUIET)
    assert [line["step"] for line in lines(tmp_path)] == [4, 4]


def test_a_metric_s_name_does_not_hide_the_step(tmp_path, lines):
    def step(run, batch):
        return run.next(), {"step": run.step + 100, "kind": run.step, "seconds": run.step}

    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **QUIET)
    assert [(line["step"], line["kind"]) for line in lines(tmp_path)] == [(4, "train")]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (jnp.float32(0.5), 0.5),
        (jnp.bfloat16(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (jnp.ones((1, 2)), [[1, 1]]),
        ([1, [2.5]], [1, [2.5]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_validation_may_give_numbers_of_any_kind(tmp_path, lines, capsys, value, line):
    how = {"validate": lambda run: {"score": value}, "progress": True}
    fn.fit(lambda run, batch: (run.next(), {}), blank(), BATCHES, steps=2, folder=tmp_path, **how)
    assert told(lines, tmp_path)[-1] == {"step": 2, "kind": "validation", "score": line}
    printed = capsys.readouterr().err
    shown = "" if isinstance(line, list) else f"score {float(line):.4g}"
    assert f"step 2: validation {shown}" in printed


# Cuts


STEPS, EVERY = 23, 5
DRAW = np.random.default_rng(0)
TAKEN = {
    "loss": DRAW.normal(size=STEPS).astype(np.float32),
    "accuracy": Mean(DRAW.integers(0, 9, STEPS).astype(np.int32), np.full(STEPS, 9, np.int32)),
    "mean": Mean(DRAW.normal(size=STEPS) * 1e8, DRAW.random(STEPS)),
    "matrix": Sum(DRAW.integers(0, 2**31 - 1, (STEPS, 2, 2)).astype(np.int32)),
    "vector": DRAW.normal(size=(STEPS, 3)).astype(np.float32) * np.float32(1e-3),
}
SKIPPED = np.isin(np.arange(STEPS), [2, 10, 11, 12, 13, 14, 22])
TAKEN["loss"][SKIPPED] = np.nan


def take(log, start, stop, skipped=SKIPPED):
    rows = jax.tree.map(lambda x: x[start:stop], TAKEN)
    log.steps_taken(start, stop - start, rows, None, None if skipped is None else skipped[start:])


def whole(folder, cuts=(), skipped=SKIPPED):
    with Log(folder, 0, STEPS, every=EVERY) as log:
        for start, stop in zip([0, *cuts], [*cuts, STEPS], strict=True):
            take(log, start, stop, skipped)


def read_bytes(folder):
    """The file without its seconds, which no two trainings share."""
    kept = []
    for text in (folder / "metrics.jsonl").read_bytes().splitlines():
        line = json.loads(text)
        kept.append(text.replace(b'"seconds": %s' % json.dumps(line["seconds"]).encode(), b""))
    return b"\n".join(kept)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncut")
    whole(folder)
    return read_bytes(folder)


def test_a_line_is_a_left_fold_in_64_bits(tmp_path, lines):
    whole(tmp_path, skipped=None)
    total = count = 0.0
    for value, weight in zip(TAKEN["mean"].total[:5], TAKEN["mean"].count[:5], strict=True):
        total, count = total + value, count + weight
    first = lines(tmp_path)[0]
    assert first["mean"] == total / count
    assert first["matrix"] == TAKEN["matrix"].total[:5].astype(int).sum(axis=0).tolist()
    assert first["vector"] == [math.fsum(column) / 5 for column in TAKEN["vector"][:5].T]


cut_list = st.lists(st.integers(1, STEPS - 1), unique=True, max_size=6).map(sorted)


@given(cut_list)
@settings(max_examples=40, deadline=None)
def test_fusing_changes_no_bit(uncut, tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("fused")
    whole(folder, cuts)
    assert read_bytes(folder) == uncut


@given(st.data(), cut_list)
@settings(max_examples=60, deadline=None)
def test_no_cut_and_no_death_changes_a_bit(uncut, tmp_path_factory, data, cuts):
    """Each process saves at a cut, goes on a little, and is killed, fails, or ends."""
    folder, state = tmp_path_factory.mktemp("cut"), None
    for start, stop in zip([0, *cuts], [*cuts, STEPS], strict=True):
        more = data.draw(st.integers(stop, min(stop + 7, STEPS)))
        end = data.draw(st.sampled_from([stop, STEPS])) if more == stop else STEPS
        fails, torn = data.draw(st.booleans()), data.draw(st.booleans())
        log = Log(folder, start, end, every=EVERY, resumed=state)
        take(log, start, stop)
        state = json.loads(json.dumps(log.state(), allow_nan=False))
        log.flush()
        log.entry(stop, "validation", {"score": stop}) if stop == 20 else None
        if more > stop:
            take(log, stop, more)
        if stop == STEPS or fails:
            log.__exit__()  # an end or an exception; a kill writes no last line
        else:
            log.lines.close()
        if stop < STEPS and torn:
            with open(folder / "metrics.jsonl", "ab") as file:
                file.write(b'{"step": 23, "kind": "tr')
    found = [line for line in read_bytes(folder).splitlines() if b"validation" not in line]
    assert b"\n".join(found) == uncut


@pytest.mark.parametrize("cuts", [(7,), (10,), (3, 12, 13)])
def test_a_training_that_is_extended_is_the_longer_training(tmp_path, uncut, cuts):
    state = None
    for start, stop in zip([0, *cuts], [*cuts, STEPS], strict=True):
        with Log(tmp_path, start, stop, every=EVERY, resumed=state) as log:
            take(log, start, stop)
            state = log.state()
    assert read_bytes(tmp_path) == uncut


def test_skipped_steps_are_counted_and_do_not_enter_the_means(tmp_path, lines):
    whole(tmp_path)
    found = {line["step"]: line for line in lines(tmp_path)}
    assert [found[step].get("skipped") for step in (5, 10, 15, 20, 23)] == [1, None, 5, None, 1]
    assert found[5]["loss"] == pytest.approx(TAKEN["loss"][[0, 1, 3, 4]].astype(float).mean())
    assert list(found[15]) == ["step", "kind", "seconds", "skipped"]


def test_a_state_of_another_step_is_refused(tmp_path):
    with Log(None, 0, STEPS, every=EVERY) as log:
        take(log, 0, 7)
    with pytest.raises(ValueError, match="resumed is the state at step 7, expected step 8"):
        Log(None, 8, STEPS, resumed=log.state())


def test_a_state_of_numbers_that_are_none_is_json(tmp_path):
    odd = {"odd": np.array([np.nan, 1.0]), "inf": np.array([np.inf, 1.0])}
    with Log(None, 0, 9) as log:
        log.steps_taken(0, 2, odd, None)
    state = json.loads(json.dumps(log.state(), allow_nan=False))
    with Log(None, 2, 9, resumed=state) as log:
        assert str(log.sums["odd"].value) == "nan"
        assert str(log.sums["inf"].value) == "inf"


def test_a_step_that_gives_other_metrics_begins_its_line_anew(tmp_path, lines):
    with Log(None, 0, 10, every=10) as log:
        log.steps_taken(0, 4, {"loss": np.ones(4)}, None)
    for name, other in {"loss": np.full((6, 2), 3.0), "other": np.full(6, 3.0)}.items():
        with Log(tmp_path / name, 4, 10, every=10, resumed=log.state()) as later:
            later.steps_taken(4, 6, {name: other}, None)
        (line,) = lines(tmp_path / name)
        assert line[name] == other[0].tolist()
        assert line.keys() == {"step", "kind", "seconds", name}


# Hooks


def test_hooks_are_called_with_every_line(tmp_path, lines):
    told = []
    hook = lambda step, kind, numbers: told.append({"step": step, "kind": kind, **numbers})  # noqa: E731
    with Log(tmp_path, 0, STEPS, every=EVERY, hooks=[hook, hook]) as log:
        take(log, 0, STEPS)
        log.entry(STEPS, "validation", {"score": np.float32(0.5), "nan": float("nan")})
    assert told[::2] == told[1::2] or math.isnan(told[-1].pop("nan"))
    wanted = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path)]
    assert told[:-2:2] == wanted[:-1]
    assert told[-1]["score"] == wanted[-1]["score"] == 0.5


def test_what_a_hook_raises_ends_the_training(tmp_path, lines):
    def hook(step, kind, numbers):
        raise RuntimeError(f"no more at {step}")

    log = Log(tmp_path, 0, STEPS, every=EVERY, hooks=[hook])
    with pytest.raises(RuntimeError, match="no more at 5"):
        take(log, 0, STEPS)
    assert [line["step"] for line in lines(tmp_path)] == [5]
    log.lines.close()


def test_what_a_hook_raises_at_the_end_does_not_hide_what_ended_the_training(tmp_path, lines):
    def hook(step, kind, numbers):
        raise RuntimeError("the hook")

    def training():
        with Log(tmp_path, 0, STEPS, hooks=[hook]) as log:
            take(log, 0, 7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training()
    assert [line["step"] for line in lines(tmp_path)] == [7]
