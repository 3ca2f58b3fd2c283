"""`import funnet`: light, and every public name says what it is."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import funnet

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = (
    "rich",
    "tensorboard",
    "grain",
    "matplotlib",
    "sklearn",
    "PIL",
    "tyro",
    "torch",
    "scipy",
    "pandas",
    "chex",
)
SCRIPT = """
import sys
import jax
before = set(sys.modules)
import funnet
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
print(jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion)
"""


@pytest.fixture(scope="module")
def fresh():
    """What a process says that imports funnet, and nothing else, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_imports_without_a_word(fresh):
    assert (fresh.returncode, fresh.stderr) == (0, "")


@pytest.mark.parametrize("name", HEAVY)
def test_it_brings_in_nothing_heavy(fresh, name):
    assert name not in fresh.stdout.splitlines()[0].split()


def test_it_leaves_jax_as_it_was(fresh):
    assert fresh.stdout.splitlines()[1] == "False standard"


PUBLIC = {name: getattr(funnet, name) for name in vars(funnet) if not name.startswith("_")}
NAMED = {name: x for name, x in PUBLIC.items() if not inspect.ismodule(x)}
SPACES = [
    funnet.data,
    funnet.data.augment,
    funnet.initializers,
    funnet.interop,
    funnet.losses,
    funnet.metrics,
    funnet.models,
    funnet.optim,
]


def owned(module):
    """The public functions and classes that a module defines or hands on."""
    for name, x in vars(module).items():
        ours = getattr(x, "__module__", "").startswith("funnet")
        if ours and not name.startswith("_") and (inspect.isfunction(x) or inspect.isclass(x)):
            yield f"{module.__name__}.{name}", x


DOCUMENTED = {**NAMED, **dict(pair for module in SPACES for pair in owned(module))}


def test_there_are_names():
    assert {"Model", "layer", "dense", "fit", "train_step", "Run", "relu"} <= NAMED.keys()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_a_docstring(name):
    first = (inspect.getdoc(DOCUMENTED[name]) or "").strip().splitlines()
    assert first, f"{name} has no docstring"
    assert len(first[0]) > 8, f"{name} says only {first[0]!r}"


METHODS = [
    (f"{name}.{key}", x)
    for name, kind in DOCUMENTED.items()
    if inspect.isclass(kind)
    for key, x in vars(kind).items()
    if not key.startswith("_") and (inspect.isfunction(x) or isinstance(x, property | classmethod))
]


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[name for name, _ in METHODS])
def test_every_public_method_has_a_docstring(name, method):
    assert (inspect.getdoc(method) or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("module", [m for m in PUBLIC.values() if inspect.ismodule(m)])
def test_every_public_module_has_a_docstring(module):
    assert (module.__doc__ or "").strip()


@pytest.mark.parametrize("name", ["dense", "conv", "batch_norm", "fit", "train_step", "save"])
def test_names_come_from_funnet(name):
    assert PUBLIC[name].__module__.startswith("funnet.")
