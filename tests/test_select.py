"""The selector language: glob patterns over dotted paths, and the trees they address."""

import fnmatch

import numpy as np
import pytest

from funnet import select

PATHS = [
    "embed.table",
    "blocks.attn.kernel",
    "blocks.attn.bias",
    "blocks.mlp.kernel",
    "blocks.mlp.bias",
    "head.kernel",
    "head.bias",
]

PATTERNS = {
    "head.kernel": ["head.kernel"],
    "*.bias": ["blocks.attn.bias", "blocks.mlp.bias", "head.bias"],
    "head.*": ["head.kernel", "head.bias"],
    "blocks*": PATHS[1:5],
    "*": PATHS,
    "hea?.bias": ["head.bias"],
    "blocks.[am]*.kernel": ["blocks.attn.kernel", "blocks.mlp.kernel"],
    "blocks.[!a]*": ["blocks.mlp.kernel", "blocks.mlp.bias"],
    ("head.bias", "embed.*"): ["embed.table", "head.bias"],
    ("*.bias", "head.*"): ["blocks.attn.bias", "blocks.mlp.bias", "head.kernel", "head.bias"],
    (): [],
}


@pytest.mark.parametrize("given", PATTERNS, ids=str)
def test_patterns_select_paths_in_the_order_of_the_paths(given):
    assert select.select(given, PATHS) == PATTERNS[given]


def test_several_patterns_may_be_any_iterable():
    assert select.select(iter(["head.bias", "embed.*"]), PATHS) == ["embed.table", "head.bias"]
    assert select.select({"*.bias"}, PATHS) == PATTERNS["*.bias"]


@pytest.mark.parametrize("wrong", ["head", "bias", "HEAD.bias", "head.bias ", "", "blocks.0.*"])
def test_a_pattern_that_selects_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"matches nothing; the nearest paths are: \w") as caught:
        select.select(["*.bias", wrong], PATHS)
    assert repr(wrong) in str(caught.value)


def test_the_nearest_paths_are_named():
    with pytest.raises(ValueError, match=r"nearest paths are: head\.kernel"):
        select.select("head.kernal", PATHS)
    with pytest.raises(ValueError, match="nothing"):
        select.select("anything", [])


def random_tree(rng, depth=3):
    names = rng.choice(["a", "b", "kernel", "x_1", "0", "ü"], rng.integers(1, 4), replace=False)
    leaf = depth == 0
    return {str(n): rng.integers(9) if leaf else random_tree(rng, depth - 1) for n in names}


@pytest.mark.parametrize("seed", range(10))
def test_nest_undoes_flatten(seed):
    tree = random_tree(np.random.default_rng(seed))
    leaves = select.flatten(tree)
    assert select.nest(leaves) == tree
    assert select.flatten(select.nest(leaves)) == leaves
    assert all("." in path and not isinstance(leaf, dict) for path, leaf in leaves.items())


def test_flatten_keeps_the_order_and_leaves_that_are_no_arrays():
    tree = {"b": {"y": None, "x": 1.5}, "a": "text"}
    assert list(select.flatten(tree).items()) == [("b.y", None), ("b.x", 1.5), ("a", "text")]


@pytest.mark.parametrize("seed", range(10))
def test_select_is_fnmatch_on_every_path(seed):
    rng = np.random.default_rng(seed)
    paths = list(select.flatten(random_tree(rng)))
    word = paths[rng.integers(len(paths))]
    cut = rng.integers(len(word))
    for pattern in (word, word[:cut] + "*", "*" + word[cut:], word[:cut] + "?" + word[cut + 1 :]):
        expected = [path for path in paths if fnmatch.fnmatchcase(path, pattern)]
        assert select.select(pattern, paths) == expected
