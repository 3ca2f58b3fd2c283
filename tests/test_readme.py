"""What is written is run: the README's code, in order, and every example in a docstring."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
USUAL = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "fn": fn}  # what every reader imports


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The README's blocks run one after another in one namespace; what there is in the end."""
    names, monkey = {"__name__": "readme"}, pytest.MonkeyPatch()
    monkey.chdir(tmp_path_factory.mktemp("readme"))
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        for i, block in enumerate(BLOCKS):
            exec(compile(block, f"README.md, block {i + 1}", "exec"), names)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        monkey.undo()
    return names


def test_the_readme_has_code():
    assert len(BLOCKS) >= 4
    assert README.count("```") == 2 * len(BLOCKS), "a block that is no python, or not closed"


def test_the_code_in_the_readme_runs(told):
    assert int(told["run"].step) == 2


def test_the_code_in_the_readme_does_what_is_said(told):
    assert told["ensemble"][0]["head"]["kernel"].shape[0] == 4
    assert set(told["found"]) == {"stage1.conv1", "stage1.0.norm2"}
    assert told["found"]["stage1.conv1"].shape[0] == 3  # one a turn


def test_the_first_code_in_the_readme_trains(capsys):
    names = {}
    exec(compile(BLOCKS[0], "README.md, block 1", "exec"), names)
    shown = eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert shown["accuracy"] > 0.85


def test_the_message_in_the_readme_is_the_message():
    names = {}
    exec(compile(BLOCKS[1], "README.md, block 2", "exec"), names)
    model = fn.Model(names["resnet"], classes=10)
    params, state = model.init(jax.random.key(0), jnp.ones((8, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"stem\.kernel") as caught:
        model.apply(params, state, jnp.ones((8, 32, 32, 1)))
    text = " ".join([f"ValueError: {caught.value}", *caught.value.__notes__]).split()
    assert " ".join(text) in " ".join(README.split())


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python -m ((?:recipes|benchmarks)\.\w+)", README)))
)
def test_what_the_readme_says_to_run_is_there(command):
    path = ROOT / (command.replace(".", "/") + ".py")
    assert '__name__ == "__main__"' in path.read_text(encoding="utf8")


def test_the_files_that_the_readme_names_are_there():
    for name in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / name).exists(), name


MODULES = ["funnet", *(m.name for m in pkgutil.walk_packages(fn.__path__, "funnet."))]
EXAMPLES = [
    test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(
        importlib.import_module(name), extraglobs=USUAL
    )
    if test.examples
]


def test_there_are_examples():
    assert len(EXAMPLES) > 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example_runs(example, tmp_path, monkeypatch):
    if any(re.search(r"\btorch\b", part.source) for part in example.examples):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
