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


def key_of(chain: Chain) -> tuple[str, ...]:
    """Model, path and layer of a chain's innermost call; empty outside of all layers."""
    return (chain[0].layer, ".".join(chain[-1].path), chain[-1].layer) if chain else ()


@dataclasses.dataclass(frozen=True)
class Spot:
    """Where an operation of a compiled program belongs."""

    chain: Chain
    backward: bool


class Places:
    """Finds the chain that the name of a compiled operation spells."""

    def __init__(self, chains: Iterable[Chain]):
        self._known = {_texts(chain[:n]): chain[:n] for chain in chains for n in range(len(chain))}
        self._known |= {_texts(chain): chain for chain in chains}

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
        return Spot(self._known.get(texts, ()), backward if texts else turned)


def _texts(chain: Chain) -> tuple[str, ...]:
    # A tag's text may itself have the separator in it; such a layer's time goes to the one around.
    return tuple(str(tag) for tag in chain)


def _parts(part: str) -> tuple[list[str], str]:
    """The transformations around a part of a name, and the text inside."""
    found = PART.match(part)
    around, text = found.groups() if found else ("", part)
    return [word for word in around.split("(") if word], text
