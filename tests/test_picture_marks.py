"""Pictures of words and of matrices: where the colours are, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from funnet import picture


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has(image, color):
    return bool((image == color).all(-1).any())


def test_words_stand_on_grounds_of_their_shades(tmp_path):
    path = tmp_path / "new" / "it.png"
    lines = [("a", ["good", "bad"], [1.0, -1.0]), ("", (), ()), ("b", ["so"], np.array([0.5]))]
    picture.words(path, lines, title="Words")
    image = pixels(path)
    assert image.shape[0] == 4 * picture.ROW + picture.GAP
    first, gap, last = (
        image[picture.GAP + picture.ROW * i - 2 :][: picture.ROW - 4] for i in (1, 2, 3)
    )
    assert has(first, picture.GROUNDS[True])
    assert has(first, picture.GROUNDS[False])
    assert (gap == picture.PAPER).all()
    half = [round(255 + (c - 255) * 0.5) for c in picture.GROUNDS[True]]
    assert has(last, half)


def test_a_word_without_a_shade_stands_on_paper(tmp_path):
    picture.words(tmp_path / "it.png", [("", ["word"], [0.0])])
    image = pixels(tmp_path / "it.png")
    assert (np.ptp(image, axis=-1) == 0).all()  # grey, for it is ink on paper


def test_heatmaps_are_darker_where_there_is_more(tmp_path):
    numbers = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]])
    picture.heatmaps(tmp_path / "it.png", [(numbers, "ab", "xyz")] * 2, title="Two")
    image = pixels(tmp_path / "it.png")
    row = cell = picture.ROW
    assert image.shape[0] == row * (1 + 2 * 4)
    left = image.shape[1] - picture.GAP - 3 * cell
    for panel in range(2):
        for i, j in np.ndindex(2, 3):
            y, x = row * (1 + 4 * panel + i) + row // 2, left + cell * j + cell // 2
            expected = [round(255 + (c - 255) * numbers[i, j]) for c in picture.DARK]
            assert image[y, x].tolist() == expected


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "it.png"
    with pytest.raises(ValueError, match="'a' has 2 words and 1 shades"):
        picture.words(path, [("a", ["b", "c"], [0.0])])
    with pytest.raises(ValueError, match=r"the shades of 'a'\[0\] is 1.5"):
        picture.words(path, [("a", ["b"], [1.5])])
    with pytest.raises(ValueError, match=r"panels\[0\] has shape \(1, 2\), and 1 rows and 1 col"):
        picture.heatmaps(path, [(np.zeros((1, 2)), "a", "x")])
    with pytest.raises(ValueError, match=r"panels\[0\]\[0, 0\] is -1"):
        picture.heatmaps(path, [(-np.ones((1, 1)), "a", "x")])
    assert not path.exists()
