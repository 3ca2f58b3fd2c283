"""Which layer an operation belongs to: in a traced program, and in a compiled one.

A traced program keeps the tags of the layers around an equation. A compiled one has only their
text, among the names of loops, branches and transformations; it is read along the tags that the
traced program has, so no scope of the caller's own is taken for a layer.
"""

import dataclasses
import re
from collections.abc import Iterable

from funnet.frame import Tag

Chain = tuple[Tag, ...]  # the layers' calls around an operation, the outermost first
Key = tuple[str, str, str]  # a row: the outermost layer, the layer's path, and its function
OUTSIDE: Key = ("", "", "")
PART = re.compile(r"((?:\w+\()*)(.*?)\)*$")  # `transpose(jvp(conv1))`


def extended(chain: Chain, tags: Iterable[Tag]) -> Chain:
    """The chain with further tags; one that is in it already was named again by a transformation.

    >>> extended((), [])
    ()
    """
    for tag in tags:
        if all((tag.path, tag.layer) != (known.path, known.layer) for known in chain):
            chain = (*chain, tag)
    return chain


@dataclasses.dataclass(frozen=True)
class Spot:
    """Where an operation of a compiled program belongs."""

    key: Key
    backward: bool


class Places:
    """Finds the row of a chain, and of the name of a compiled operation."""

    def __init__(self, chains: Iterable[Chain]):
        whole = [chain for chain in chains if chain and not chain[0].path]
        self._models = {(chain[-1].path, chain[-1].layer): chain[0].layer for chain in whole}
        self._known = {_texts(chain[:n]): chain[:n] for chain in chains for n in range(len(chain))}
        self._known |= {_texts(chain): chain for chain in chains}

    def key(self, chain: Chain) -> Key:
        """The row of a chain; JAX may have lost the layers around the body of a loop."""
        if not chain:
            return OUTSIDE
        path, layer = chain[-1].path, chain[-1].layer
        model = self._models.get((path, layer), chain[0].layer) if chain[0].path else chain[0].layer
        return model, ".".join(path), layer

    def spot(self, name: str) -> Spot:
        """The place of an operation by its name, such as `jit(step)/transpose(jvp(net))/conv/dot`.

        What is computed again for the backward pass is part of that.
        """
        texts: tuple[str, ...] = ()
        turned = backward = False
        for part in name.split("/"):
            around, text = _parts(part)
            turned = turned or "transpose" in around
            if not {"jit", "pjit"} & set(around) and (*texts, text) in self._known:
                texts, backward = (*texts, text), turned
        return Spot(self.key(self._known.get(texts, ())), backward if texts else turned)


def _texts(chain: Chain) -> tuple[str, ...]:
    # A tag's text may itself have the separator in it; such a layer's time goes to the one around.
    return tuple(str(tag) for tag in chain)


def _parts(part: str) -> tuple[list[str], str]:
    """The transformations around a part of a name, and the text inside."""
    found = PART.match(part)
    around, text = found.groups() if found else ("", part)
    return [word for word in around.split("(") if word], text
