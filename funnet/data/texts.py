"""Texts: read whole, from files or from what Python brings along, and as numbers of characters."""

from pathlib import Path

import numpy as np

from funnet.checks import count
from funnet.data.idx import damaged


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, its line ends as they are.

    Raises:
        ValueError: if it is empty, or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"bytes that are no UTF-8 ({error.reason})", "a text") from error
    if not text:
        raise damaged(path, "an empty file", "a text")
    return text


def python_docs() -> str:
    """The reference manual of the language that Python's own `help` shows: some 465,000 characters.

    Needs no file and no network. It differs a little from one version of Python to the next.

    Raises:
        ImportError: this Python was installed without `pydoc_data`.

    >>> "The following identifiers are used as reserved words" in python_docs()
    True
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def characters(text: str) -> tuple[np.ndarray, str]:
    """Each character as its place in the alphabet of the text, which is sorted.

    Args:
        text: at least one character, at most 256 different ones.

    Returns:
        ids (len(text),) uint8, and the alphabet: `"".join(alphabet[i] for i in ids)` is the text.

    Raises:
        ValueError: if the text is empty or has more different characters.

    >>> ids, alphabet = characters("banana")
    >>> ids.tolist(), alphabet
    ([1, 0, 2, 0, 2, 0], 'abn')
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    distinct, ids = np.unique(points, return_inverse=True)
    if not 1 <= len(distinct) <= 256:
        raise ValueError(f"text must have 1 to 256 different characters, got {len(distinct)}")
    return ids.reshape(-1).astype(np.uint8), "".join(map(chr, distinct))


def windows(ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """A sequence cut into rows, and for each of its elements the one that follows, to be predicted.

    Args:
        ids: (T,) whole numbers.
        length: of a row, less than T. What is left over at the end is left out.

    Returns:
        `text` and `label`, both (N, length), `N = (T - 1) // length`.

    Raises:
        ValueError: if `ids` is no single row, or too short.

    >>> rows = windows(np.arange(8), 3)
    >>> rows["text"].tolist(), rows["label"].tolist()
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids must have shape (T,), T at least 2, got {ids.shape}")
    count("length", length, len(ids) - 1)
    whole = (len(ids) - 1) // length * length
    parts = {"text": ids[:whole], "label": ids[1 : whole + 1]}
    return {name: part.reshape(-1, length) for name, part in parts.items()}
