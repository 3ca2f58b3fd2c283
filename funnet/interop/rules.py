"""Which of our parameters are which of PyTorch's: a table of names, and how each is converted.

A line gives our names and theirs, both below one module: `*` stands for its path, `#` for a
number. The first line that fits is used: one whose names are all there, on both sides.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator

from funnet.interop.conversions import DENSE, KERNELS, SAME, SCALES, SUM, Conversion
from funnet.interop.names import filled


@dataclasses.dataclass(frozen=True)
class Rule:
    """Our names, PyTorch's, and the conversion, or one for each kind of layer."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    conversion: Conversion | dict[str, Conversion]

    def named(self, words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Our names and theirs for what the wildcards stand for."""
        ours, theirs = (
            tuple(filled(name, words).removeprefix(".") for name in names)
            for names in (self.ours, self.theirs)
        )
        return ours, theirs


def _rule(ours: str, theirs: str, conversion: Conversion | dict[str, Conversion] = SAME) -> Rule:
    mine, others = (tuple(f"*.{name}" for name in words.split()) for words in (ours, theirs))
    return Rule(mine, others, conversion)


# Several layers, both ways, and one layer; then a cell, which has no number.
_RECURRENT = {
    "layer#.backward.": "_l#_reverse",
    "layer#.forward.": "_l#",
    "layer#.": "_l#",
    "backward.": "_l0_reverse",
    "forward.": "_l0",
    "": "_l0",
}


def _recurrent(at: str, end: str) -> list[Rule]:
    both = f"bias_ih{end} bias_hh{end}"
    return [
        _rule(f"{at}input_kernel", f"weight_ih{end}", DENSE),
        _rule(f"{at}hidden_kernel", f"weight_hh{end}", DENSE),
        _rule(f"{at}bias {at}hidden_bias", both),
        _rule(f"{at}bias", both, SUM),
    ]


RULES = [
    _rule("kernel", "weight", KERNELS),
    _rule("scale", "weight"),
    _rule("table", "weight"),
    _rule("bias", "bias"),
    _rule("mean", "running_mean"),
    _rule("var", "running_var"),
    # A weight as its norms and its direction: `parametrizations.weight_norm`, and the older form.
    _rule("kernel_scale", "parametrizations.weight.original0", SCALES),
    _rule("kernel", "parametrizations.weight.original1", KERNELS),
    _rule("kernel_scale", "weight_g", SCALES),
    _rule("kernel", "weight_v", KERNELS),
    # Attention: queries, keys and values side by side, and apart.
    _rule("qkv.kernel", "in_proj_weight", DENSE),
    _rule("qkv.bias", "in_proj_bias"),
    _rule("query.kernel key_value.kernel", "in_proj_weight", DENSE),
    _rule("query.bias key_value.bias", "in_proj_bias", DENSE),
    *(
        _rule(ours, " ".join(f"{name}.{leaf}" for name in theirs.split()), DENSE)
        for kind, leaf in (("kernel", "weight"), ("bias", "bias"))
        for ours, theirs in (
            (f"qkv.{kind}", "q_proj k_proj v_proj"),
            (f"qkv.{kind}", "query key value"),
            (f"query.{kind}", "q_proj"),
            (f"key_value.{kind}", "k_proj v_proj"),
            (f"key_value.{kind}", "key value"),
        )
    ),
    _rule("query.kernel", "q_proj_weight", DENSE),
    _rule("key_value.kernel", "k_proj_weight v_proj_weight", DENSE),
    _rule("out.kernel", "out_proj.weight", DENSE),
    _rule("out.bias", "out_proj.bias"),
    *(rule for at, end in _RECURRENT.items() for rule in _recurrent(at, end)),
    *_recurrent("", ""),
    # A rename may name our leaf itself. A kernel is PyTorch's way round all the same.
    _rule("kernel", "kernel", KERNELS),
    _rule("input_kernel", "input_kernel", DENSE),
    _rule("hidden_kernel", "hidden_kernel", DENSE),
    Rule(("*",), ("*",), SAME),
]


def fitting(
    name: str, ours: Collection[str], theirs: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...], Conversion | dict[str, Conversion]] | None:
    """Our names, theirs and the conversion of the first line that has the parameter `name`."""
    for rule in RULES:
        for words in _words(rule.ours, name):
            mine, others = rule.named(words)
            if all(n in ours for n in mine) and all(n in theirs for n in others):
                return mine, others, rule.conversion
    return None


def parameters(name: str) -> Iterator[str]:
    """What we may call the parameter that PyTorch's tensor `name` belongs to."""
    for rule in RULES:
        for words in _words(rule.theirs, name):
            yield from rule.named(words)[0]


def counterpart(name: str) -> str:
    """What PyTorch most likely calls the parameter `name`."""
    for rule in RULES:
        for words in _words(rule.ours, name):
            return rule.named(words)[1][0]
    return name


def _words(templates: tuple[str, ...], name: str) -> Iterator[tuple[str, ...]]:
    for template in templates:
        found = _regex(template).fullmatch(f".{name}")
        if found:
            yield found.groups()


@functools.cache
def _regex(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\*", "(.*)").replace(r"\#", "([0-9]+)"))
