"""Pictures of what a model saw and said, for people to look at. Needs Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TILE, CAPTION, GAP = 56, 14, 6  # pixels
PAPER, INK, RED = (255, 255, 255), (40, 40, 40), (200, 30, 30)


def grid(
    path: str | Path,
    images: Any,
    captions: Sequence[str] = (),
    marked: Sequence[bool] | np.ndarray = (),
    *,
    title: str = "",
    columns: int = 12,
) -> None:
    """Writes images as a grid of tiles with a caption under each; the marked ones in a red frame.

    Args:
        path: the PNG file to write.
        images: (N, H, W, C) with one or three channels: uint8, or floats in 0..1,
            what is outside being shown as the nearest of these.
        captions: a short text for each; without them the tiles stand closer.
        marked: whether to mark it; without them none is.
        title: a line at the top.
        columns: tiles in a row.

    Raises:
        ImportError: if Pillow is missing; the message says what to install.
        ValueError: if the images have other axes, channels or dtypes, or there are not as many
            captions or marks as images.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'funnet[recipes]'") from error
    images = _bytes(images)
    _check(len(images), captions=captions, marked=marked)
    below = CAPTION if len(captions) else 0
    rows, cell = -(-len(images) // columns), (TILE + GAP, TILE + below + GAP)
    top = 2 * CAPTION if title else GAP
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, fill=INK)
    for i, image in enumerate(images):
        x, y = GAP + i % columns * cell[0], top + i // columns * cell[1]
        framed = len(marked) > 0 and marked[i]
        tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        sheet.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (x, y))
        if framed:
            draw.rectangle((x - 2, y - 2, x + TILE + 1, y + TILE + 1), outline=RED, width=2)
        if below:
            draw.text((x, y + TILE + 1), captions[i], fill=RED if framed else INK)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def predictions(
    path: str | Path,
    images: Any,
    labels: Any,
    guesses: Any,
    *,
    names: Sequence[str] | None = None,
    first: int = 84,
    mistakes: int = 36,
) -> None:
    """Writes the first images with what was predicted, then mistakes, these in a red frame.

    Args:
        path: the PNG file to write.
        images: uint8 (N, H, W, C) with one or three channels.
        labels: (N,) the classes.
        guesses: (N,) the predicted classes.
        names: of the classes; by default their numbers.
        first: how many of the first images to show.
        mistakes: how many mistakes to show at most.

    Raises:
        ImportError: if Pillow is missing; the message says what to install.
    """
    labels, guesses = np.asarray(labels), np.asarray(guesses)
    named = [str(n) for n in range(int(max(labels.max(), guesses.max())) + 1)]
    named = list(names) if names is not None else named
    wrong = labels != guesses
    shown = np.concatenate([np.arange(min(first, len(wrong))), np.flatnonzero(wrong)[:mistakes]])
    texts = [
        f"{named[guesses[i]]} not {named[labels[i]]}" if wrong[i] else named[guesses[i]]
        for i in shown
    ]
    title = "Predictions for the first images, then mistakes (framed: prediction not label)"
    grid(path, np.asarray(images)[shown], texts, wrong[shown], title=title)


def _bytes(images: Any) -> np.ndarray:
    """The images as bytes."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images has shape {images.shape}, expected (N, H, W, C) with one or three channels"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images are {images.dtype}, expected uint8 or floats in 0..1")
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def _check(images: int, **given: Sequence[Any] | np.ndarray) -> None:
    for name, values in given.items():
        if len(values) not in (0, images):
            raise ValueError(f"{name} has {len(values)} entries, expected {images}, one an image")
