"""What a training ran on, and its settings: plain JSON, without names of people or machines."""

import dataclasses
import enum
import getpass
import json
import os
import pathlib
import re
import socket
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn
from funnet.train import environment as module
from funnet.train.environment import environment
from funnet.train.settings import plain_settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def strict(x):
    assert json.loads(json.dumps(x, allow_nan=False)) == x
    return x


def test_the_environment_is_json_and_tells_the_versions():
    found = strict(environment())
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cores"] >= 1
    assert sum(found["devices"].values()) == len(jax.devices())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])


def test_what_cannot_be_found_out_is_left_out(monkeypatch):
    def fails(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setattr(module, "_commit", fails)
    monkeypatch.setattr(os, "sysconf", fails)
    monkeypatch.setattr(sys, "orig_argv", [])
    found = environment()
    assert not {"devices", "commit", "memory", "command"} & found.keys()
    assert "jax" in found


def test_no_name_of_host_user_or_home_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/ada.l")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada.l")
    monkeypatch.setattr(socket, "gethostname", lambda: "engine-7")
    words = ["/usr/bin/python3", "-m", "x", "/homes/ada.l/run", "--to=/data/ada.l/engine-7/a",
             "/home/bob/y", "/homes/ada.l2", "--cache", "/Users/Bob/z"]  # fmt: skip
    monkeypatch.setattr(sys, "orig_argv", words)
    assert environment()["command"] == [
        "python3", "-m", "x", "~/run", "--to=/data/user/host/a", "~/y", "/homes/ada.l2",
        "--cache", "~/z"]  # fmt: skip


def test_secrets_of_the_command_are_masked(monkeypatch):
    words = ["python", "x.py", "--api-key", "abc", "--token=abc", "--seed", "3", "--password", "p"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert " ".join(environment()["command"]) == (
        "python x.py --api-key *** --token=*** --seed 3 --password ***"
    )


@pytest.mark.parametrize("kind", ["branch", "packed", "detached", "worktree", "unborn", "damaged"])
def test_the_commit_is_read_from_git_s_files(tmp_path, monkeypatch, kind):
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    if kind == "branch":
        (git / "refs/heads/main").write_text(COMMIT + "\n")
    elif kind == "packed":
        (git / "packed-refs").write_text(f"# pack-refs\n{'f' * 40} refs/heads/x\n"
                                         f"{COMMIT} refs/heads/main\n")  # fmt: skip
    elif kind == "detached":
        (git / "HEAD").write_text(COMMIT)
    elif kind == "damaged":
        (git / "HEAD").write_text("who knows")
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    if kind == "worktree":
        own = git / "worktrees/b"
        own.mkdir(parents=True)
        (own / "HEAD").write_text("ref: refs/heads/side\n")
        (own / "commondir").write_text("../..\n")
        (git / "refs/heads/side").write_text(COMMIT)
        (inner / ".git").write_text(f"gitdir: {own}\n")
    monkeypatch.chdir(inner)
    wanted = None if kind in ("unborn", "damaged") else COMMIT
    assert environment().get("commit") == wanted


# Settings


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Inner:
    rate: float = 0.5
    path: pathlib.Path = pathlib.Path("a/b")


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    colour: Colour = Colour.RED
    sizes: tuple = (1, 2)
    nothing: None = None
    late: int = dataclasses.field(init=False)


def test_dataclasses_and_what_they_hold():
    assert strict(plain_settings(Outer())) == {
        "inner": {"rate": 0.5, "path": str(pathlib.Path("a/b"))},
        "colour": "RED",
        "sizes": [1, 2],
        "nothing": None,
        "late": None,
    }


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float64("nan"), "nan"),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([1.0, np.inf]), [1.0, "inf"]),
        (np.zeros((1000, 3), np.float32), "float32[1000,3]"),
        (np.datetime64("2020-01-01"), "2020-01-01"),
        (jnp.arange(3), [0, 1, 2]),
        (jnp.bfloat16(1.5), 1.5),
        (jax.random.key(0), "key<fry>[]"),
        ({3: {2, 1}}, {"3": [1, 2]}),
        (np.dtype("float32"), "dtype('float32')"),
        (np.float32, "numpy.float32"),
        (np.tanh, "numpy.tanh"),
        (fn.Model(fn.dense, features=3), "Model(dense, features=3)"),
        (object(), "<object object>"),
        (optax.constant_schedule(0.1), {"function": "optax.schedules._schedule.constant_schedule",
                                        "value": 0.1}),
    ],
    ids=lambda x: re.sub(r" at 0x\w+", "", str(x)),
)  # fmt: skip
def test_values_of_any_kind(value, plain):
    assert strict(plain_settings(value)) == plain
    assert strict(plain_settings({"a": [value]})) == {"a": [plain]}


def test_the_order_of_settings_is_kept():
    assert list(plain_settings({"b": 1, "a": 2})) == ["b", "a"]


def test_an_optimizer_tells_what_it_was_made_of():
    told = json.dumps(strict(plain_settings(optax.adamw(optax.cosine_decay_schedule(0.25, 77)))))
    for part in ("scale_by_adam", '"b1": 0.9', "cosine_decay_schedule", "0.25", "77"):
        assert part in told


def test_an_optimizer_of_our_own_tells_too():
    rates = {"head.*": fn.optim.adamw(optax.cosine_decay_schedule(0.25, 77)), "*": optax.sgd(0.5)}
    base = optax.chain(optax.clip_by_global_norm(3.0), fn.optim.groups(rates))
    optimizer = fn.optim.scale_loss(fn.optim.freeze(fn.optim.average(base, 0.75), "stem.*"), 8.0)
    plain = strict(plain_settings({"settings": {"optimizer": optimizer}}))["settings"]["optimizer"]
    assert (plain["frozen"], plain["average"]) == (["stem.*"], 0.75)
    assert plain["loss_scale"]["initial"] == 8.0
    told = json.dumps(plain)
    for part in ('"head.*"', '"max_norm": 3.0', "cosine_decay_schedule", "0.25", "77", "-0.5"):
        assert part in told
    assert "..." not in told


def test_settings_that_hold_themselves_end_somewhere():
    loop = {}
    loop["loop"] = loop
    assert "..." in json.dumps(plain_settings(loop))


def test_home_is_not_told(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/ada")
    assert plain_settings([pathlib.Path("/homes/ada/x"), "/homes/ada"]) == ["~/x", "~"]
