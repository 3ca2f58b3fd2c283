"""Facts in a JSON file that vouches for itself.

The last entry, `sha256`, is the SHA-256 of the whole file with sixty-four zeros in its place, so
that no bit of the file can change unnoticed. It reads as plain JSON.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLANK = b"0" * 64
_SEAL = re.compile(rb'\A(\{.*"sha256": ")([0-9a-f]{64})("\n\}\n)\Z', re.DOTALL)


class Damaged(ValueError):
    """A file is not as it was written."""


def sealed(facts: Mapping[str, Any]) -> bytes:
    """The facts as the bytes of a file, with their seal.

    Raises:
        TypeError, ValueError: if they are nothing that JSON can hold exactly, such as NaN.

    >>> opened(sealed({"step": 800}))
    {'step': 800}
    """
    if "sha256" in facts:
        raise ValueError("the name 'sha256' is the seal's own")
    text = json.dumps({**facts, "sha256": _BLANK.decode()}, indent=1, allow_nan=False) + "\n"
    blank, end = text.encode(), b'"\n}\n'
    seal = hashlib.sha256(blank).hexdigest().encode()
    return blank.removesuffix(_BLANK + end) + seal + end


def opened(content: bytes) -> dict[str, Any]:
    """The facts that `sealed` has written.

    Raises:
        Damaged: if any bit is another than it was.
    """
    found = _SEAL.match(content)
    if found is None:
        raise Damaged("it is cut short or no manifest")
    before, seal, after = found.groups()
    if hashlib.sha256(before + _BLANK + after).hexdigest().encode() != seal:
        raise Damaged("its bytes are not those that were written")
    facts = json.loads(content)
    del facts["sha256"]
    return facts


def read(path: Path) -> dict[str, Any]:
    """The facts in a file.

    Raises:
        Damaged: if the file is missing, cannot be read or is not as it was written.
    """
    try:
        return opened(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name}: {error}") from error
