"""Pictures: tiles, captions and frames where they belong."""

import sys

import numpy as np
import pytest
from PIL import Image

from funnet import picture


def test_marked_tiles_have_a_red_frame(tmp_path):
    images = np.zeros((5, 4, 4, 3), np.uint8)
    marked = [False, True, False, False, True]
    picture.grid(tmp_path / "new" / "it.png", images, list("abcde"), marked, columns=2)
    with Image.open(tmp_path / "new" / "it.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    side, row = picture.TILE + picture.GAP, picture.TILE + picture.CAPTION + picture.GAP
    assert pixels.shape == (3 * row + picture.GAP, 2 * side + picture.GAP, 3)
    for i in range(5):
        y, x = picture.GAP + i // 2 * row, picture.GAP + i % 2 * side
        frame = pixels[y - 1, x : x + picture.TILE]
        assert (frame == (picture.RED if marked[i] else picture.PAPER)).all(axis=-1).all()
        assert (pixels[y + 8, x + 8] == 0).all()


def test_no_caption_runs_into_the_next_and_no_title_is_cut(tmp_path):
    images, captions = np.zeros((3, 4, 4, 1), np.uint8), ["truck not plane", "a", "b"]
    picture.grid(tmp_path / "it.png", images, captions, columns=3)
    row = read(tmp_path / "it.png")[2 + picture.GAP + picture.TILE :]
    empty = (row == 255).all(axis=(0, 2))  # columns without ink
    ends = np.flatnonzero(np.diff(empty.astype(int)) == 1)
    begin = np.flatnonzero(np.diff(empty.astype(int)) == -1)
    cell = (empty.size - picture.GAP) // 3
    assert cell > picture.TILE + picture.GAP
    assert {i * cell for i in range(3)} <= {int(b) // cell * cell for b in begin}
    assert empty[cell : cell + picture.GAP].all()
    assert ends[-1] < empty.size - 1
    title = "a title that is much longer than a picture of one tile is wide"
    picture.grid(tmp_path / "it.png", images[:1], title=title, columns=1)
    picture.grid(tmp_path / "double.png", images[:1], title=title, columns=12)
    inks = [
        (read(tmp_path / f"{n}.png")[: 2 * picture.CAPTION] < 255).sum() for n in ("it", "double")
    ]
    assert inks[0] == inks[1] > 0


def test_a_picture_without_pillow_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[recipes\]'"):
        picture.grid(tmp_path / "it.png", np.zeros((1, 4, 4, 1), np.uint8), ["a"], [False])


def test_predictions_shows_the_first_images_and_then_mistakes(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(picture, "grid", lambda *args, **how: told.append(args))
    images = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1)
    labels, guesses = [0, 1, 2, 0, 1, 2], [0, 2, 2, 0, 0, 1]
    how = {"first": 2, "mistakes": 2}
    picture.predictions(tmp_path, images, labels, guesses, names=["ox", "hen", "bee"], **how)
    picture.predictions(tmp_path, images, labels, guesses, **how)
    for (_, shown, captions, marked), texts in zip(
        told,
        (
            ["ox", "bee not hen", "bee not hen", "ox not hen"],
            ["0", "2 not 1", "2 not 1", "0 not 1"],
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(shown, images[[0, 1, 1, 4]])
        assert captions == texts
        assert marked.tolist() == [False, True, True, True]


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_floats_are_shown_as_bytes_and_what_is_outside_as_the_nearest(tmp_path):
    images = np.array([-0.5, 0.0, 0.2, 1.0, 1.5], np.float32).reshape(5, 1, 1, 1)
    picture.grid(tmp_path / "it.png", images, columns=5)
    pixels, side = read(tmp_path / "it.png"), picture.TILE + picture.GAP
    assert pixels.shape == (side + picture.GAP, 5 * side + picture.GAP, 3)
    shown = [pixels[picture.GAP + 9, picture.GAP + i * side + 9].tolist() for i in range(5)]
    assert shown == [[0] * 3, [0] * 3, [51] * 3, [255] * 3, [255] * 3]


def test_without_captions_tiles_stand_closer(tmp_path):
    images = np.zeros((3, 2, 2, 3), np.uint8)
    picture.grid(tmp_path / "without.png", images, columns=1)
    picture.grid(tmp_path / "with.png", images, ["a", "b", "c"], columns=1)
    heights = [len(read(tmp_path / name)) for name in ("with.png", "without.png")]
    assert heights[0] - heights[1] == 3 * picture.CAPTION


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (2, 4, 4, 2)])
def test_what_is_no_image_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"images has shape .* expected \(N, H, W, C\)"):
        picture.grid(tmp_path / "it.png", np.zeros(shape, np.uint8))


def test_integers_other_than_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images are int64, expected uint8 or floats"):
        picture.grid(tmp_path / "it.png", np.zeros((1, 4, 4, 1), np.int64))


@pytest.mark.parametrize("name", ["captions", "marked"])
def test_a_caption_or_mark_too_few_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} has 1 entries, expected 2"):
        picture.grid(tmp_path / "it.png", np.zeros((2, 4, 4, 1), np.uint8), **{name: [""]})
