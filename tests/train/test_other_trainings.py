"""Another training's folder is refused; every kind of training has a folder that tells."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from resuming import STEPS, cut, fit, last, undisturbed
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
    linear_start,
    start,
)

import funnet as fn


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory)


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
        ({"hooks": ["tensorboard"]}, TypeError, r"hooks takes functions of \(step, kind, numbers"),
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
