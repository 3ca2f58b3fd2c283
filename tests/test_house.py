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
    "optim": ("layers", "train", "data", "models", "model", "interop", "reports"),
    "store": ("layers", "train", "data", "models", "model", "interop", "reports", "optim"),
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


# Nothing that runs what it reads.

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {"extractall", "extract", "unpack_archive", "system", "popen"}


def unsafe(tree):
    """Each call or name in a syntax tree that could run or write what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in UNSAFE_METHODS:
            yield node.attr
        elif isinstance(node, ast.Attribute) and node.attr == "compile":
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id == "re"):
                yield from () if isinstance(owner, ast.Call) else ("compile",)
        elif isinstance(node, ast.keyword) and (node.arg, getattr(node.value, "value", None)) in [
            ("allow_pickle", True),
            ("shell", True),
        ]:
            yield node.arg


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_what_it_reads(path):
    assert not UNSAFE_MODULES & {module.split(".")[0] for module in imports(path)}
    assert not list(unsafe(tree_of(path)))


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "tar.extractall(p)", "np.load(f, allow_pickle=True)", "f = exec", "os.system(x)"],
)
def test_the_rule_above_can_fail(code):
    assert list(unsafe(ast.parse(code)))


HEAVY = {
    "rich",
    "tensorboard",
    "grain",
    "matplotlib",
    "sklearn",
    "torch",
    "chex",
    "PIL",
    "tyro",
    "flax",
    "pandas",
    "IPython",
}
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
