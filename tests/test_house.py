"""The house rules, read off the syntax trees: sizes, imports in one direction, nothing unsafe."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "funnet").rglob("*.py"))
CORE = ("scope", "model", "lift")


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree_of(path):
    return ast.parse(path.read_text(), str(path))


def imports(path):
    """Every module that a file imports, at the top or inside a function."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_house(path):
    return {module for module in imports(path) if module.split(".")[0] == "funnet"}


def within(module, package):
    return module == f"funnet.{package}" or module.startswith(f"funnet.{package}.")


def test_the_core_is_under_five_hundred_lines():
    lines = [len((ROOT / f"funnet/{name}.py").read_text().splitlines()) for name in CORE]
    assert sum(lines) < 500, dict(zip(CORE, lines, strict=True))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            docs = node.body[0] if ast.get_docstring(node) else None
            documented = docs.end_lineno - docs.lineno + 1 if docs else 0
            assert node.end_lineno - node.lineno + 1 - documented <= 50, node.name


# Who may not know whom: rooms by name, the first knows nothing of the second.
UPWARD = {
    "scope": ("layers", "train", "data", "models", "losses", "metrics", "optim", "ops"),
    "model": ("layers", "train", "data", "models", "losses", "metrics", "optim", "ops"),
    "lift": ("layers", "train", "data", "models", "losses", "metrics", "optim", "ops"),
    "summary": ("layers", "train", "data", "models", "model"),
    "select": ("layers", "train", "data", "models", "model", "scope"),
    "ops": ("layers", "train", "data", "models", "model", "scope", "lift"),
    "layers": ("train", "data", "models", "optim", "losses", "interop", "model"),
    "losses": ("layers", "train", "data", "models", "model"),
    "train": ("models", "interop"),
    "optim": (
        "layers",
        "train",
        "data",
        "models",
        "losses",
        "model",
        "interop",
        "reports",
        "scope",
    ),
    "mixed": ("layers", "train", "data", "models", "model", "optim"),
    "keys": ("layers", "train", "data", "models", "model", "optim", "scope"),
    "store": ("layers", "train", "data", "models", "model", "interop", "reports", "optim"),
    "profiling": ("models", "interop", "data", "layers", "optim", "losses", "reports", "store"),
    "reports": ("train", "data", "models", "layers", "interop", "optim"),
    "data": ("train", "models", "model", "interop"),
    "models": ("train", "data", "interop", "losses", "optim"),
    "interop": ("train", "data", "models", "layers", "losses", "ops"),
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path):
    modules = of_house(path)
    for room, forbidden in UPWARD.items():
        if within(name_of(path), room):
            wrong = {m for m in modules if any(within(m, other) for other in forbidden)}
            assert not wrong, f"{name_of(path)} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_knows_no_recipe_test_or_benchmark(path):
    assert not {m for m in imports(path) if m.split(".")[0] in ("recipes", "tests", "benchmarks")}


def test_there_is_no_circle():
    names = {name_of(path) for path in FILES}
    known = {name_of(path): of_house(path) & names - {name_of(path)} for path in FILES}
    known = {name: used - {"funnet"} for name, used in known.items() if name != "funnet"}
    while leaves := {name for name, used in known.items() if not used & known.keys()}:
        known = {name: used for name, used in known.items() if name not in leaves}
    assert not known, f"in a circle, or above one: {sorted(known)}"


# Nothing that runs what it reads, or writes where a file says.

UNSAFE_MODULES = """
pickle _pickle cPickle pickletools dill cloudpickle joblib jsonpickle marshal shelve copyreg
builtins code codeop runpy imp zipimport py_compile importlib.util importlib.machinery
importlib.import_module importlib.reload pkgutil ctypes _ctypes cffi subprocess pty multiprocessing
yaml torch.load torch.hub torch.jit.load torch.package torch.utils.cpp_extension
os.system os.popen os.startfile os.posix_spawn os.posix_spawnp shutil.unpack_archive
jax.experimental.serialize_executable numpy.ctypeslib numpy.lib.format pandas.read_pickle
"""
# One call of the C library that reads no file: mallopt, with numbers written in the source.
EXCEPTIONS = {"funnet.host": {"ctypes", "ctypes.CDLL", "ctypes.c_int"}}
UNSAFE_FAMILIES = ("os.exec", "os.spawn")  # each with several endings
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__", "__builtins__", "__loader__"}
UNSAFE_METHODS = {"extract", "extractall", "unpack_archive", "read_pickle", "load_module"}
UNSAFE_METHODS |= {"exec_module", "__globals__", "__subclasses__", "__reduce__", "__reduce_ex__"}
SAFE_WORDS = {"allow_pickle": False, "shell": False, "weights_only": True}  # no other value is


def spelt(node, known):
    """A dotted name as it is called where it comes from: `np.load` is numpy.load."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{spelt(node.value, known)}.{node.attr}"
    return "?"


def origins(tree):
    """What the names that a tree imports are called where they come from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
                if not alias.asname:  # `import a.b` gives the name a
                    yield alias.name.split(".")[0], alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def is_unsafe(name):
    parts = name.split(".")
    starts = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return bool(starts & set(UNSAFE_MODULES.split())) or name.startswith(UNSAFE_FAMILIES)


def unsafe(tree):
    """Each import, name, call or word in a syntax tree that could run or write what a file says."""
    imported = list(origins(tree))
    yield from (origin for _, origin in imported if is_unsafe(origin))
    known = dict(imported)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
            yield node.id
        elif isinstance(node, ast.Attribute):
            if node.attr in UNSAFE_METHODS or is_unsafe(spelt(node, known)):
                yield spelt(node, known)
        elif isinstance(node, ast.keyword) and node.arg in SAFE_WORDS:
            if getattr(node.value, "value", None) is not SAFE_WORDS[node.arg]:
                yield node.arg
        elif isinstance(node, ast.Call) and spelt(node.func, known) == "numpy.load":
            yield from ["numpy.load"] * (len(node.args) > 2)  # the third is allow_pickle


@pytest.mark.parametrize("path", [*FILES, *(ROOT / "recipes").rglob("*.py")], ids=name_of)
def test_nothing_runs_what_it_reads(path):
    assert not set(unsafe(tree_of(path))) - EXCEPTIONS.get(name_of(path), set())


UNSAFE = """
eval('1')
f = exec
compile(x, y, 'exec')
__import__('os')
__builtins__['eval']
tar.extractall(p)
zipfile.ZipFile(f).extract(n, p)
import shutil; shutil.unpack_archive(f, p)
from shutil import unpack_archive
import pickle
import _pickle as p
from pickle import loads
from joblib import load as read
import os; os.system(x)
import os as o; o.popen(x)
import os.path as p, os; os.execv(x, y)
from os import system
from os import execvp
import os; os.spawnlp(x)
import numpy as np; np.load(f, allow_pickle=True)
import numpy as np; np.load(f, allow_pickle=given)
import numpy as np; np.load(f, None, True)
from numpy import load; load(f, None, True)
import numpy; numpy.lib.format.read_array(f)
import torch; torch.load(f)
import torch as t; t.hub.load(x)
import torch.hub
from torch import load
load(f, weights_only=False)
import yaml
from yaml import safe_load
import subprocess as s
from subprocess import run
run(x, shell=True)
import ctypes.util
from ctypes import CDLL
import importlib.util
import importlib; importlib.import_module(x)
from importlib import import_module
import builtins
import marshal, json
import runpy
import multiprocessing.connection
x.__reduce__()
f.__globals__
().__class__.__subclasses__()
import jax; jax.experimental.serialize_executable.deserialize_and_load(x)
import pandas as pd; pd.read_pickle(f)
"""
SAFE = """
import os; os.replace(x, y); os.path.exists(x)
import re; re.compile(x)
import platform; platform.system()
import importlib.metadata; importlib.metadata.version(x)
import jax; jax.jit(f).lower(x).compile()
import numpy as np; np.load(f); np.load(f, 'r'); np.load(f, allow_pickle=False)
import tarfile; tarfile.open(f).extractfile(member)
import json; json.load(f); json.loads(x)
import torch; torch.from_numpy(x)
from funnet.store.tensors import load; load(f)
"""


@pytest.mark.parametrize("code", UNSAFE.strip().splitlines())
def test_the_rule_above_can_fail(code):
    assert list(unsafe(ast.parse(code)))


@pytest.mark.parametrize("code", SAFE.strip().splitlines())
def test_the_rule_above_lets_pass_what_is_safe(code):
    assert not list(unsafe(ast.parse(code)))


HEAVY = {"matplotlib", "sklearn", "torch", "chex", "PIL", "tyro", "flax", "pandas", "IPython"}
HEAVY |= {"rich", "tensorboard", "grain"}
REPORT = """
import json, sys, time
start = time.process_time()
import jax.numpy
middle, before = time.process_time(), set(sys.modules)
import funnet
ours, added = time.process_time() - middle, sorted(set(sys.modules) - before)
print(json.dumps([middle - start, ours, added]))
"""


def test_importing_the_library_imports_little_beside_jax():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", REPORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    jax, ours, added = json.loads(run.stdout)
    assert not HEAVY & {module.split(".")[0] for module in added}
    assert ours < jax, f"import funnet took {ours:.2f} s, import jax {jax:.2f} s"
