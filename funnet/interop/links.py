"""Which of our parameters belong to which tensors, and the way from the ones to the others."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from funnet.draw import Record
from funnet.interop.conversions import KERNELS, Conversion, Shape, flattened
from funnet.interop.rules import fitting
from funnet.interop.trees import Wanted
from funnet.select import select

Flattened = Mapping[str, tuple[int, ...]] | None


@dataclasses.dataclass(frozen=True)
class Link:
    """Some parameters of ours that are some tensors of PyTorch's."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    conversion: Conversion


def links(ours: Wanted, theirs: Mapping[str, Shape], flat: Flattened) -> list[Link]:
    """All that belong together; what is in none of the links has no counterpart.

    Raises:
        ValueError: if a pattern of `flattened` matches no dense layer, or a kernel may be a
            convolution's or a transposed one's.
    """
    slots, found, taken = ours.slots, [], set()
    for name in slots:
        fits = None if name in taken else fitting(name, slots, theirs)
        if fits:
            found.append(fits)
            taken |= set(fits[0])
    kinds = _kinds(ours, slots, found, theirs)
    dense = [module for module, kind in kinds.items() if kind == "dense"]
    features = {m: f for pattern, f in (flat or {}).items() for m in select(pattern, dense)}

    def conversion(name: str, given: Any) -> Conversion:
        module = _module(name)
        if given is KERNELS and module in features:
            return flattened(tuple(features[module]))
        return given if isinstance(given, Conversion) else given[kinds.get(module, "dense")]

    return [Link(mine, others, conversion(mine[0], given)) for mine, others, given in found]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _kinds(
    ours: Wanted, slots: Mapping[str, Record], found: list, theirs: Mapping[str, Shape]
) -> dict[str, str]:
    """The kind of layer by path, of all layers that have a kernel."""
    possible = {
        mine[0]: _possible(ours.layer(slots[mine[0]]), slots[mine[0]].shape, theirs[others[0]])
        for mine, others, given in found
        if given is KERNELS
    }
    either = [name for name, kinds in possible.items() if len(kinds) > 1]
    if either and ["conv_transpose"] in possible.values():
        how = 'a scope of its own, p["name"]' if ours.layers else "its inputs as like"
        raise ValueError(
            f"it is open whether {', '.join(either[:5])} belong to convolutions or to transposed "
            f"ones, for both would fit: give {'each' if ours.layers else 'the model'} {how}"
        )
    return {_module(name): kinds[0] for name, kinds in possible.items()}


def _possible(layer: str, shape: Shape, weight: Shape) -> list[str]:
    """The kinds of layer that a kernel may belong to, the likeliest first."""
    if len(shape) < 3:
        return ["dense"]
    if layer in KERNELS:
        return [layer]
    kinds = ["conv", "conv_transpose"]
    return [kind for kind in kinds if KERNELS[kind].gives(weight, shape)] or kinds[:1]


def unlinked(names: Iterable[str], linked: Iterable[tuple[str, ...]]) -> list[str]:
    """The names that no link has."""
    taken = {name for part in linked for name in part}
    return [name for name in names if name not in taken]


def carried(
    joined: list[Link],
    given: Mapping[str, np.ndarray],
    expected: Mapping[str, Shape],
    *,
    back: bool = False,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """All arrays on the other side, ours or (`back`) PyTorch's, and what to say of misfits."""
    made, misshapen = {}, []
    for link in joined:
        convert = link.conversion.theirs if back else link.conversion.ours
        sources, targets = (link.ours, link.theirs) if back else (link.theirs, link.ours)
        shapes = [expected[name] for name in targets]
        try:
            arrays = convert([given[name] for name in sources], shapes)
        except (ValueError, IndexError):  # they have not the axes that the conversion takes
            arrays = []
        if [x.shape for x in arrays] == shapes:
            made |= zip(targets, arrays, strict=True)
        else:
            have = ", ".join(f"{name} {given[name].shape}" for name in sources)
            need = ", ".join(f"{name} {expected[name]}" for name in targets)
            gives = " and ".join(str(x.shape) for x in arrays) or "nothing"
            words = link.conversion.words
            misshapen.append(f"{need} from {have}, which {words} gives {gives}")
    return made, misshapen
