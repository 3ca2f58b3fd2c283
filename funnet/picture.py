"""Pictures of what a model saw and said, for people to look at. Needs Pillow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funnet.checks import within

TILE, CAPTION, GAP = 56, 14, 6  # pixels
LETTER, ROW = 13, 22  # of words, and of a line or a cell
PAPER, INK, RED = (255, 255, 255), (40, 40, 40), (200, 30, 30)
GROUNDS = {False: (244, 135, 100), True: (100, 165, 222)}  # behind words: below zero, above
DARK = (8, 48, 107)  # of a cell


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
        captions: a short text for each, of a line; the widest says how far apart the tiles are.
        marked: whether to mark it; without them none is.
        title: a line at the top.
        columns: tiles in a row.

    Raises:
        ImportError: if Pillow is missing; the message says what to install.
        ValueError: if the images have other axes, channels or dtypes, or there are not as many
            captions or marks as images.
    """
    pillow = _pillow()
    images = _bytes(images)
    _check(len(images), captions=captions, marked=marked)
    below = CAPTION if len(captions) else 0
    font = pillow.ImageFont.load_default()
    widest = max([TILE, *(math.ceil(font.getlength(text)) for text in captions)])
    rows, cell = -(-len(images) // columns), (widest + GAP, TILE + below + GAP)
    top = 2 * CAPTION if title else GAP
    wide = max(columns * cell[0] + GAP, math.ceil(font.getlength(title)) + 2 * GAP)
    sheet = pillow.Image.new("RGB", (wide, rows * cell[1] + top), PAPER)
    draw = pillow.ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, font)
    for i, image in enumerate(images):
        x, y = GAP + i % columns * cell[0], top + i // columns * cell[1]
        framed = len(marked) > 0 and marked[i]
        tile = pillow.Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        sheet.paste(tile.resize((TILE, TILE), pillow.Image.Resampling.NEAREST), (x, y))
        if framed:
            draw.rectangle((x - 2, y - 2, x + TILE + 1, y + TILE + 1), outline=RED, width=2)
        if below:
            draw.text((x, y + TILE + 1), captions[i], RED if framed else INK, font)
    _write(path, sheet)


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


def words(
    path: str | Path,
    lines: Sequence[tuple[str, Sequence[str], Sequence[float] | np.ndarray]],
    *,
    title: str = "",
) -> None:
    """Writes words on grounds that are red for -1, white for 0 and blue for 1, line by line.

    Args:
        path: the PNG file to write.
        lines: of each its name, words, and a shade of -1 to 1 for each word; one without words
            leaves a gap.
        title: a line at the top.

    Raises:
        ImportError: if Pillow is missing; the message says what to install.
        ValueError: if there is not one shade for each word, or one is outside -1..1.
    """
    for name, texts, shades in lines:
        within(f"the shades of {name!r}", np.asarray(shades, float), -1, 1, slack=1e-6)
        if len(texts) != len(shades):
            raise ValueError(f"{name!r} has {len(texts)} words and {len(shades)} shades")
    pillow = _pillow()
    font = pillow.ImageFont.load_default(LETTER)
    margin = 2 * GAP + max((font.getlength(name) for name, _, _ in lines), default=0)
    long = [sum(font.getlength(word) + 2 * GAP for word in texts) for _, texts, _ in lines]
    wide = max([margin + GAP + max(long, default=0), 2 * GAP + font.getlength(title)])
    sheet = pillow.Image.new("RGB", (round(wide), ROW * (len(lines) + 1) + GAP), PAPER)
    draw = pillow.ImageDraw.Draw(sheet)
    for row, (name, texts, shades) in enumerate([(title, (), ()), *lines]):
        x, y = margin, ROW * row + GAP
        draw.text((GAP, y + LETTER), name, INK, font, "ls")
        for word, shade in zip(texts, shades, strict=True):
            end = x + font.getlength(word) + 2 * GAP
            ground = _mixed(GROUNDS[float(shade) > 0], abs(float(shade)))
            draw.rectangle((x, y - 2, end - 2, y + ROW - 5), fill=ground)
            draw.text((x + GAP - 1, y + LETTER), word, INK, font, "ls")
            x = end
    _write(path, sheet)


def heatmaps(
    path: str | Path,
    panels: Sequence[tuple[Any, Sequence[str], Sequence[str]]],
    *,
    title: str = "",
) -> None:
    """Writes matrices as squares, the darker the more, one matrix below the other.

    Args:
        path: the PNG file to write.
        panels: of each its numbers (R, C) of 0 to 1, what its rows are called, and its columns: a
            letter or short word for each.
        title: a line at the top.

    Raises:
        ImportError: if Pillow is missing; the message says what to install.
        ValueError: if names do not fit the numbers, or one is outside 0..1.
    """
    for i, (numbers, rows, columns) in enumerate(panels):
        within(f"panels[{i}]", numbers, 0, 1, slack=1e-6)
        if np.shape(numbers) != (len(rows), len(columns)):
            names = f"{len(rows)} rows and {len(columns)} columns are named"
            raise ValueError(f"panels[{i}] has shape {np.shape(numbers)}, and {names}")
    pillow = _pillow()
    font = pillow.ImageFont.load_default(LETTER)
    named = [name for _, _, columns in panels for name in columns]
    cell = max([ROW, *(round(font.getlength(name)) + GAP for name in named)])
    margin = 2 * GAP + max([0, *(font.getlength(name) for _, rows, _ in panels for name in rows)])
    wide = [margin + cell * len(columns) for _, _, columns in panels]
    wide = GAP + max([*wide, GAP + font.getlength(title)])
    tall = ROW * (1 + sum(len(rows) + 2 for _, rows, _ in panels))
    sheet = pillow.Image.new("RGB", (round(wide), tall), PAPER)
    draw = pillow.ImageDraw.Draw(sheet)
    draw.text((GAP, ROW / 2), title, INK, font, "lm")
    y = ROW
    for numbers, rows, columns in panels:
        for name, values in zip([*rows, ""], [*np.asarray(numbers), ()], strict=True):
            draw.text((margin - GAP, y + ROW / 2), name, INK, font, "rm")
            for i, value in enumerate(values):
                x = margin + cell * i
                box = (x, y, x + cell - 2, y + ROW - 2)
                draw.rectangle(box, fill=_mixed(DARK, float(value)), outline=(225, 225, 225))
            y += ROW
        for i, name in enumerate(columns):
            draw.text((margin + cell * (i + 0.5) - 1, y - ROW / 2), name, INK, font, "mm")
        y += ROW
    _write(path, sheet)


def _mixed(color: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """So much of a colour on paper."""
    return tuple(round(p + (c - p) * share) for p, c in zip(PAPER, color, strict=True))


def _write(path: str | Path, sheet: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _pillow() -> Any:
    """The package, with what is used of it."""
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'funnet[recipes]'") from error
    return PIL


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
