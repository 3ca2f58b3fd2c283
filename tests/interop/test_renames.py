"""Renames: patterns for the start of a name, whose wildcards carry over."""

import pytest

from funnet.interop.names import renamer

# names, a name, what becomes of it
CASES = [
    (None, "fc.weight", "fc.weight"),
    ({"fc": "head"}, "fc.weight", "head.weight"),
    ({"fc": "head"}, "fc2.weight", "fc2.weight"),
    ({"fc": "head.out"}, "fc", "head.out"),
    ({"fc.weight": "head.kernel"}, "fc.weight", "head.kernel"),
    (
        {"layer*.*.downsample.0": "layer*.*.project"},
        "layer1.0.downsample.0.weight",
        "layer1.0.project.weight",
    ),
    ({"h.*.attn": "blocks.*.attention"}, "h.11.attn.bias", "blocks.11.attention.bias"),
    ({"h.*": "blocks.*.inner"}, "h.3.attn.bias", "blocks.3.inner.attn.bias"),
    ({"*.c_attn": "*.qkv"}, "h.3.attn.c_attn.bias", "h.3.attn.qkv.bias"),
    ({"module": ""}, "module.fc.weight", "fc.weight"),
    ({"*": "model.*"}, "fc.weight", "model.fc.weight"),
    ({"a.b": "x", "a": "y"}, "a.b.c", "x.c"),
    ({"a": "y", "a.b": "x"}, "a.b.c", "y.b.c"),
    ({"a[0]": "x"}, "a[0].b", "x.b"),
    ({"*.mask": None}, "a.mask", None),
    (lambda name: name.upper(), "fc", "FC"),
    (lambda name: None, "fc", None),
]


@pytest.mark.parametrize(("names", "name", "expected"), CASES)
def test_a_name_becomes(names, name, expected):
    assert renamer(names, ["a.b", "fc", name])(name) == expected


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"names.*'layer9\.conv'.*nearest.*layer1\.conv"):
        renamer({"layer9.conv": "x"}, ["layer1.conv.weight", "head.bias"])


def test_a_target_with_more_wildcards_than_its_pattern_is_refused():
    with pytest.raises(ValueError, match=r"'x\.\*\.\*' has more wildcards than 'a\.\*'"):
        renamer({"a.*": "x.*.*"}, ["a.b"])


def test_what_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match=r"names must be a mapping.*got list; write names="):
        renamer(["a"], ["a"])  # pyright: ignore


def test_a_function_must_give_a_name():
    with pytest.raises(TypeError, match=r"names gave 3 for 'a'"):
        renamer(lambda name: 3, ["a"])("a")  # pyright: ignore
