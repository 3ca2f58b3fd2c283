"""Facts in a JSON file that vouches for itself.

The last entry, `sha256`, is the SHA-256 of the whole file with sixty-four zeros in its place, so
that no bit of the file can change unnoticed. It reads as plain JSON.
"""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from funnet.store import durable

MOST = 2**26  # bytes: what is longer is none of ours, and is not read into memory
_BLANK = b"0" * 64
_SEAL = re.compile(rb'\A(\{.*"sha256": ")([0-9a-f]{64})("\n\}\n)\Z', re.DOTALL)
# What may go well another time, and says nothing of the file.
_PASSING = {
    getattr(errno, name)
    for name in ("EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT")
    if hasattr(errno, name)
}


class Damaged(ValueError):
    """A file is not as it was written; raised from an `OSError` where it cannot be read at all."""


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
    if len(blank) > MOST:
        raise ValueError(f"the facts are {len(blank):,} bytes of JSON, and {MOST:,} is the most")
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
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:  # sealed by another hand than ours
        raise Damaged(f"it is no manifest: {error}") from None
    del facts["sha256"]
    return facts


def read(path: Path) -> dict[str, Any]:
    """The facts in a file.

    Raises:
        Damaged: if the file is missing, cannot be read or is not as it was written.
        OSError: if memory or handles are short, which says nothing of the file.
    """
    with reading(path):
        if (size := durable.size(path)) > MOST:
            raise Damaged(f"{path}: {size:,} bytes are too many for a manifest")
        content = path.read_bytes()
    try:
        return opened(content)
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the disk says of a file into `Damaged`, but for what will pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise Damaged(f"{path}: {error.strerror or error}") from error
