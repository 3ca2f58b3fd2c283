"""The same call made again goes on, bit for bit; another training's folder is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_fit import POINTS, adversarial, adversarial_start
from toys import (
    ADAM,
    BATCHES,
    DATA,
    LINEAR_OBJECTIVE,
    LINEAR_STEP,
    MODEL,
    OBJECTIVE,
    QUIET,
    SGD,
    STEP,
    Streamed,
    assert_same,
    examples,
    host,
    linear_start,
    start,
)

import funnet as fn
from funnet.train.archive import Archive

STEPS = 24
SCORES = (1, 3, 2, 5, 4, 4, 3)  # of the validations, every four steps


class Cut(Exception):
    """What ends a training early."""


def score(run):
    return {"score": SCORES[int(run.step) // 4]}


HOW = {"validate": score, "validate_every": 4, "best": fn.highest("score"), "log_every": 5}


def fit(folder, step=STEP, run=None, batches=BATCHES, **how):
    run = start() if run is None else run
    return fn.fit(step, run, batches, **{"steps": STEPS, "folder": folder, **QUIET, **HOW, **how})


def cut(folder, at, batches=BATCHES, **how):
    """A training that is lost at some step, as by a power cut: nothing is saved at the end."""

    class Failing(Streamed):
        def __getitem__(self, step):
            if step == at:
                raise Cut
            return batches[step]

        def identity(self):
            return batches.identity()

    how = {"save_every": 5, "fuse": 1, **how}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funnet.train.training.Training._rescue", lambda self: self.saver.wait())
        with pytest.raises(Cut):
            fit(folder, batches=Failing(), **how)


def told(folder, name="metrics.jsonl"):
    """The lines of the metrics, without the seconds."""
    found = [json.loads(text) for text in (folder / name).read_text().splitlines()]
    return [{name: x for name, x in line.items() if name != "seconds"} for line in found]


def steps_in(folder):
    return [int(path.name.split(".")[0]) for path in sorted((folder / "checkpoints").iterdir())]


def last(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never disturbed: its folder and its run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, host(fit(folder, keep=9, save_every=5))


@pytest.mark.parametrize(("before", "after"), [(1, None), (3, 1), (None, 2)])
@pytest.mark.parametrize("at", [1, 8, 13, 23])
def test_the_same_call_goes_on_to_the_same_bits(tmp_path, whole, at, before, after):
    cut(tmp_path, at, fuse=before)
    assert_same(fit(tmp_path, fuse=after, save_every=5), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_training_cut_again_and_again_comes_to_the_same_bits(tmp_path, whole):
    for at in (3, 6, 7, 12, 12, 13, 21, 23):
        cut(tmp_path, at, save_every=3)
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_finished_training_says_so_and_takes_no_step(tmp_path, whole, capsys):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    source = Streamed()
    source.identity = BATCHES.identity
    assert_same(fit(tmp_path, batches=source, progress=True, validate=pytest.fail), whole[1])
    assert f"{tmp_path} is finished: {STEPS} steps" in capsys.readouterr().err
    assert set(source.asked) <= {0}
    assert told(tmp_path) == told(whole[0])
    assert steps_in(tmp_path) == steps_in(whole[0])


def test_a_training_that_goes_on_says_from_where(tmp_path, capsys):
    cut(tmp_path, 8)
    assert capsys.readouterr().err == ""
    fit(tmp_path, progress=True)
    assert f"{tmp_path} goes on from step 5" in capsys.readouterr().err


def test_more_steps_go_on_to_the_same_bits(tmp_path, whole):
    fit(tmp_path, steps=8)
    fit(tmp_path, steps=16)
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_fewer_steps_than_there_are_give_the_run_that_is_there(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    assert_same(fit(tmp_path, steps=12), whole[1])


def test_calls_one_after_another_on_one_folder_are_one_training(tmp_path, whole):
    first = fit(tmp_path, steps=8)
    assert_same(fit(tmp_path, run=first), whole[1])
    again = fit(tmp_path, steps=8)  # the script, started anew
    assert_same(fit(tmp_path, run=again), whole[1])


def test_a_run_in_between_is_refused(tmp_path):
    early = fn.fit(STEP, start(), BATCHES, steps=8, **QUIET)
    fit(tmp_path, steps=12)
    with pytest.raises(ValueError, match="stands at step 8: give the folder's own first run"):
        fit(tmp_path, run=early)


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_a_fork_with_another_rate_is_the_same_thing_done_by_hand(tmp_path, whole, kind):
    faster = fn.train_step(OBJECTIVE, optax.adam(0.1))
    run = fn.restore(whole[0], like=start(seed=9), step=15)
    batches = BATCHES if kind == "resident" else Streamed()
    fork = fit(tmp_path, faster, run, batches, save_every=3)
    by_hand = fn.fit(STEP, start(), BATCHES, steps=15, **QUIET)
    assert_same(run, by_hand)
    assert_same(fork, fn.fit(faster, by_hand, BATCHES, steps=STEPS, **QUIET))
    assert steps_in(tmp_path) == [16, 18, 21, 24]
    assert_same(fit(tmp_path, faster, run, batches), fork)  # finished
    (first, *_) = told(tmp_path)
    assert (first["step"], first["kind"]) == (16, "validation")


def test_a_fork_goes_on_like_any_other(tmp_path, whole):
    run = fn.restore(whole[0], like=start(), step=15)
    cut(tmp_path, 22, run=run)
    assert_same(fit(tmp_path, run=run), whole[1])


# What is kept


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path):
    run = fit(tmp_path, keep=2, save_every=2)
    assert steps_in(tmp_path) == [12, 22, 24]
    best = fn.restore(tmp_path, like=start(), step="best")
    assert int(best.step) == 12
    assert_same(best, fn.fit(STEP, start(), BATCHES, steps=12, **QUIET))
    assert_same(fn.restore(tmp_path, like=start()), run)
    assert_same(fn.restore(tmp_path, like=start(), step=22), fit(None, steps=22))
    with pytest.raises(ValueError, match=r"no checkpoint of step 8: .* has 12, 22, 24"):
        fn.restore(tmp_path, like=start(), step=8)


def test_the_best_stays_the_best_when_a_training_goes_on(tmp_path):
    cut(tmp_path, 18, keep=1)
    fit(tmp_path, keep=1)
    assert steps_in(tmp_path) == [12, 24]
    assert int(fn.restore(tmp_path, like=start(), step="best").step) == 12


def test_what_cannot_be_restored_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint"):
        fn.restore(tmp_path, like=start())
    fit(tmp_path, best=None, steps=4)
    with pytest.raises(ValueError, match=r"without best=: give fit best=fn.highest\(name\)"):
        fn.restore(tmp_path, like=start(), step="best")
    with pytest.raises(ValueError, match="'best' or None, got 'last'"):
        fn.restore(tmp_path, like=start(), step="last")
    with pytest.raises(ValueError, match=r"params\.hidden\.kernel"):
        fn.restore(tmp_path, like=linear_start())


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole, name, damage):
    cut(tmp_path, 18)
    path = last(tmp_path)
    damage(path / name)
    with pytest.warns(UserWarning, match=rf"{path} is damaged: passed over \({path / name}"):
        assert int(fn.restore(tmp_path, like=start()).step) == 12  # which was the best
    with pytest.warns(UserWarning, match=rf"{path} is damaged: passed over, and now called"):
        assert_same(fit(tmp_path, save_every=5), whole[1])
    assert told(tmp_path) == told(whole[0])


# Another training


def changed(run, **parts):
    return dataclasses.replace(run, **parts)


WIDER = fn.Model(fn.layer(lambda p, x: fn.dense(p["out"], fn.relu(fn.dense(p["h"], x, 9)), 3)))
SMOOTH = fn.classification(MODEL, label_smoothing=0.25)
OTHERS = {
    "model": (
        {"step": fn.train_step(fn.classification(WIDER), ADAM), "run": "wider"},
        ["model: only there: params.hidden.kernel", "only here: params.h.bias", "optimizer: only"],
    ),
    "optimizer": (
        {"step": fn.train_step(OBJECTIVE, optax.sgd(0.1, momentum=0.9)), "run": "momentum"},
        ["optimizer: only there: optimizer_state.0.count", "ScaleByAdamState", "TraceState"],
    ),
    "optimizer of the same shapes": (
        {"step": fn.train_step(OBJECTIVE, optax.adabelief(1e-2)), "run": "belief"},
        ["ScaleByAdamState", "here"],
    ),
    "learning rate": (
        {"step": fn.train_step(OBJECTIVE, optax.adam(1e-3))},
        ["step.optimizer", "step_size: -0.01 there, -0.001 here"],
    ),
    "loss": (
        {"step": fn.train_step(SMOOTH, ADAM)},
        ["step.objective.label_smoothing: 0.0 there, 0.25 here"],
    ),
    "data": (
        {"batches": fn.data.batches(examples(seed=1), 16)},
        ["data arrays: "],
    ),
    "number of examples": (
        {"batches": fn.data.batches(examples(count=60), 16)},
        ["data examples: 50 there, 60 here"],
    ),
    "order of the data": (
        {"batches": fn.data.batches(DATA, 16, seed=3)},
        ["data seed: 0 there, 3 here"],
    ),
    "batch size": (
        {"batches": fn.data.batches(DATA, 10)},
        ["data size: 16 there, 10 here", "batch image: float32[16, 4] there, float32[10, 4] here"],
    ),
    "seed": ({"run": "seed"}, ["seed: 0 there, 1 here"]),
    "all": (
        {
            "step": fn.train_step(SMOOTH, optax.adam(1e-3)),
            "run": "seed",
            "batches": fn.data.batches(DATA, 16, seed=3),
        },
        ["seed: 0 there", "data seed: 0", "step.objective.label", "step_size: -0.01 there"],
    ),
}
RUNS = {
    "wider": lambda: fn.Run.start(WIDER, ADAM, DATA["image"]),
    "momentum": lambda: fn.Run.start(MODEL, optax.sgd(0.1, momentum=0.9), DATA["image"]),
    "belief": lambda: fn.Run.start(MODEL, optax.adabelief(1e-2), DATA["image"]),
    "seed": lambda: start(seed=1),
}


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.parametrize("case", OTHERS)
def test_another_training_is_refused_with_all_that_differs_and_nothing_is_touched(whole, case):
    how, words = OTHERS[case]
    how = {**how, "run": RUNS[how["run"]]() if "run" in how else start()}
    before = contents(whole[0])
    with pytest.raises(ValueError, match="holds another training:\n  ") as caught:
        fit(whole[0], **how)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "Give this one another folder" in message
    assert ("fn.restore(" in message) == (case not in ("model", "optimizer"))
    assert_same(caught.value.run, how["run"])
    assert contents(whole[0]) == before


def test_other_parameters_to_begin_with_are_warned_of_and_the_training_goes_on(tmp_path, whole):
    cut(tmp_path, 13)
    pretrained = jax.tree.map(lambda x: x + 1, start().params)
    other = dataclasses.replace(start(), params=pretrained)
    with pytest.warns(UserWarning, match="begun with other parameters than those that are given"):
        assert_same(fit(tmp_path, run=other), whole[1])


def test_a_source_of_one_s_own_is_told_by_its_first_batch(tmp_path):
    fit(tmp_path, batches=Streamed(), steps=8)
    assert_same(fit(tmp_path, batches=Streamed()), fit(None))
    other = Streamed(fn.data.batches(examples(seed=1), 16))
    with pytest.raises(ValueError, match="data first batch: "):
        fit(tmp_path, batches=other)


def test_identity_of_a_source_must_be_json(tmp_path):
    source = Streamed()
    source.identity = lambda: {"files": ("a", 3), 1: None}  # JSON gives lists and words back
    fit(tmp_path, batches=source, steps=8)
    assert_same(fit(tmp_path, batches=source), fit(None))
    source.identity = lambda: {"array": np.zeros(3)}
    with pytest.raises(TypeError, match="identity"):
        fit(tmp_path, batches=source)


def rewritten(folder, change):
    """The newest checkpoint with another manifest."""
    from funnet.store import manifest

    path = last(folder) / "manifest.json"
    facts = manifest.read(path)
    change(facts["identity"])
    path.write_bytes(manifest.sealed(facts))


def test_another_version_of_jax_is_no_other_training(tmp_path, whole):
    cut(tmp_path, 18)
    rewritten(tmp_path, lambda own: own["versions"].update(jax="0.10.0"))
    assert_same(fit(tmp_path), whole[1])  # its program was the same
    shutil.rmtree(tmp_path)
    cut(tmp_path, 18)
    rewritten(tmp_path, lambda own: own["versions"].update(jax="0.10.0") or own.update(program="x"))
    with pytest.warns(UserWarning, match=r"made with jax 0\.10\.0, .*not to the same bits"):
        assert_same(fit(tmp_path), whole[1])


# Validations


def test_patience_ends_a_training_and_it_stays_ended(tmp_path):
    run = fit(tmp_path, patience=2)
    assert int(run.step) == 20  # 12 was the best
    assert_same(fit(tmp_path, patience=2, validate=pytest.fail), run)
    assert [line["step"] for line in told(tmp_path) if line["kind"] == "validation"][-1] == 20
    assert_same(fit(tmp_path, patience=9), fit(None))


def test_a_line_that_patience_cut_short_stays(tmp_path):
    fit(tmp_path, patience=2, log_every=7)
    before = told(tmp_path)
    assert [line["step"] for line in before if line["kind"] == "train"] == [7, 14, 20]
    fit(tmp_path, patience=2, log_every=7)
    assert told(tmp_path) == before


def test_patience_counts_on_across_a_cut(tmp_path):
    cut(tmp_path, 17)
    assert int(fit(tmp_path, patience=2).step) == 20


@pytest.mark.parametrize("at", [4, 24])
def test_a_validation_that_was_cut_off_is_made_up_for(tmp_path, whole, at):
    met = []

    def failing(run):
        met.append(int(run.step))
        if int(run.step) == at:
            raise Cut
        return score(run)

    for _ in range(3):
        with pytest.raises(Cut):
            fit(tmp_path, validate=failing)
    assert met[-3:] == [at] * 3
    assert int(fn.restore(tmp_path, like=start()).step) == at
    assert_same(fit(tmp_path), whole[1])
    assert told(tmp_path) == told(whole[0])


def test_a_validation_of_which_no_checkpoint_knows_is_told_once(tmp_path):
    def lost(*_):
        raise Cut

    with pytest.raises(Cut):
        fit(tmp_path, validate=lost, validate_every=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Archive, "job", lost)
        with pytest.raises(Cut):
            fit(tmp_path, save_every=5)  # validates step 8, and dies before it is saved
    assert {"step": 8, "kind": "validation", "score": 2} in told(tmp_path)
    fit(tmp_path, validate_every=8)
    steps = [line["step"] for line in told(tmp_path) if line["kind"] == "validation"]
    assert steps == [8, 16, 24]


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path):
    def validate(run):
        return {"score": float("nan") if int(run.step) == 12 else score(run)["score"]}

    fit(tmp_path, validate=validate)
    assert int(fn.restore(tmp_path, like=start(), step="best").step) == 16
    with pytest.raises(ValueError, match="best watches 'loss', and validate gave score"):
        fit(None, best=fn.lowest("loss"))


# Other kinds of training


def test_two_networks_in_one_run_go_on(tmp_path):
    end = fn.fit(adversarial, adversarial_start(), POINTS, steps=20, **QUIET)
    for steps in (11, 20):
        how = {"steps": steps, "folder": tmp_path, **QUIET}
        run = fn.fit(adversarial, adversarial_start(), POINTS, **how)
    assert_same(run, end)


def test_random_keys_and_every_kind_of_number_go_on(tmp_path):
    def begin():
        state = {
            "key": jax.random.key(3),
            "half": jnp.bfloat16(1),
            "flag": jnp.array(True),
            "none": jnp.zeros((0, 3)),
            "weak": jnp.asarray(2.0),
            "python": 0.5,
        }
        return fn.Run(jnp.ones(3), state, None, jnp.int32(0), jnp.uint32(0))

    def step(run, batch):
        key, draw = jax.random.split(run.state["key"])
        noise = jax.random.normal(draw, (3,))
        kept = {**run.state, "key": key, "flag": ~run.state["flag"]}
        kept["half"] = kept["half"] + jnp.bfloat16(0.5)
        kept["weak"] = kept["weak"] * 1.1
        return run.next(params=run.params + noise * kept["weak"], state=kept), {}

    end = fn.fit(step, begin(), BATCHES, steps=9, **QUIET)
    for steps in (4, 9):
        run = fn.fit(step, begin(), BATCHES, steps=steps, folder=tmp_path, **QUIET)
    assert jax.random.key_data(run.state["key"]).tolist() == (
        jax.random.key_data(end.state["key"]).tolist()
    )
    data = [
        changed(r, state={**r.state, "key": jax.random.key_data(r.state["key"])})
        for r in (run, end)
    ]
    assert_same(*data)
    assert run.state["key"].dtype == end.state["key"].dtype


class Sequence:
    """A source that gives one batch after another, and can be taken to where it stood."""

    def __init__(self):
        self.at, self.given = 0, []

    def __getitem__(self, step):
        assert step == self.at, f"asked for {step}, standing at {self.at}"
        self.at += 1
        self.given.append(step)
        return BATCHES[step]

    def position(self, step):
        assert step == self.at
        return {"standing": self.at}

    def seek(self, step, position):
        assert position == {"standing": step}
        self.at = step


def test_looking_at_a_source_does_not_move_it():
    from funnet.train.identity import identity

    source = Sequence()
    identity(STEP, start(), source)
    assert source.at == 0
    assert source.given == [0]


# What the folder tells


@dataclasses.dataclass
class Settings:
    """What a script was told."""

    rate: float = 1e-2
    hidden: int = 8


def test_the_folder_tells_what_was_asked_for_and_where(tmp_path):
    fit(tmp_path, settings=Settings(), steps=8)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["settings"] == {"rate": 0.01, "hidden": 8}
    assert (facts["start"], facts["steps"], facts["steps_per_epoch"]) == (0, 8, 4)
    assert facts["step"]["objective"]["label_smoothing"] == 0
    assert facts["environment"]["jax"] == jax.__version__
    manifest = json.loads((last(tmp_path) / "manifest.json").read_text())
    assert manifest["settings"] == facts["settings"]
    assert manifest["metrics"] == {"score": 2}
    assert (manifest["step"], manifest["start"]) == (8, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints",
        "lock",
        "metrics.jsonl",
        "report.html",
        "run.json",
    ]


def test_the_step_is_traced_once_with_a_folder_too(tmp_path):
    traced = []

    def objective(params, state, batch, *, train, key):
        traced.append(train)
        return LINEAR_OBJECTIVE(params, state, batch, train=train, key=key)

    step = fn.train_step(objective, SGD)
    for steps in (3, 7):
        fn.fit(step, linear_start(), BATCHES, steps=steps, folder=tmp_path, **QUIET)
    assert traced == [True]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"save_every": 2.0}, TypeError, r"write timedelta\(seconds=2.0\)"),
        ({"save_every": 0}, ValueError, "save_every"),
        ({"save_every": fn.train.fit.Time(0)}, ValueError, "a time above zero"),
        ({"keep": 0}, ValueError, "keep"),
        ({"patience": 0}, ValueError, "patience"),
        ({"best": "score"}, ValueError, r"fn.highest\(name\)"),
        ({"best": None, "patience": 3}, ValueError, "patience needs best"),
        ({"validate": None}, ValueError, "best needs validate"),
        ({"on_nonfinite": "ignore"}, ValueError, "stop, skip, explain"),
        ({"on_save_error": True}, ValueError, "stop, continue"),
    ],
)
def test_wrong_arguments_touch_no_folder(tmp_path, how, kind, words):
    with pytest.raises(kind, match=words):
        fit(tmp_path / "new", **how)
    assert list(tmp_path.iterdir()) == []


def test_a_linear_step_of_the_same_shapes_elsewhere(tmp_path):
    """A step that differs only in what it computes is told by its program."""

    def doubled(run, batch):
        new, metrics = LINEAR_STEP(run, batch)
        return new, {"loss": metrics["loss"]}

    how = {"steps": 3, "folder": tmp_path, **QUIET}
    fn.fit(LINEAR_STEP, linear_start(), BATCHES, **how)
    with pytest.raises(ValueError, match=r"step: .*train_step.* there, .*doubled.* here|step"):
        fn.fit(doubled, linear_start(), BATCHES, **{**how, "steps": 9})


def test_a_source_that_keeps_a_position_goes_on_where_it_stood(tmp_path, whole):
    class Told(Sequence):
        def identity(self):
            return BATCHES.identity()

    for steps in (5, 13, STEPS):
        run = fit(tmp_path / "calls", batches=Told(), steps=steps, save_every=3)
    assert_same(run, whole[1])
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "cut", batches=Told(), hooks=[lambda *_: 1 / 0])
    assert_same(fit(tmp_path / "cut", batches=Told()), whole[1])
