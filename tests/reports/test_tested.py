"""What a report says of a classifier: matrix, classes and mistakes, in numbers and pictures."""

import base64
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import funnet as fn
from funnet.reports.mistakes import findings
from funnet.reports.png import encode, shown


@pytest.fixture
def found(tested, tmp_path, page):
    """The page of the classifier whose mistakes are known."""
    return page(fn.report(tmp_path, *tested, classes=["ant", "bee", "cow"]))


def test_the_verdict_is_the_evaluation(found, tested):
    model, run, data = tested
    exact = fn.evaluate(fn.classification(model), run, data)
    text = found.all("p", class_="verdict")[0]["text"].replace("\xa0", " ")
    assert f"{100 * exact['accuracy']:.2f} %" in text
    assert "2 of 6 wrong" in text
    assert float(re.search(r"loss (\S+)\.$", text)[1]) == pytest.approx(exact["loss"], rel=1e-3)


def test_the_matrix_is_that_of_the_metric(tested):
    model, run, data = tested
    logits = jnp.asarray(fn.predict(model, run, data["image"]))
    expected = fn.metrics.confusion_matrix(logits, data["label"]).value
    assert findings(logits, data).matrix.tolist() == expected.tolist()


def test_every_count_of_the_matrix_is_on_the_page(found):
    counts = [e["text"] for e in found.all("text", class_="count")]
    assert sorted(counts) == sorted(["22 × ant, predicted ant", "11 × bee, predicted ant",
                              "11 × bee, predicted cow", "22 × cow, predicted cow"])  # fmt: skip
    assert found.rows("Confusion matrix")[1:] == [
        ["bee", "ant", "1", "50.0 %"],
        ["bee", "cow", "1", "50.0 %"],
    ]


def test_the_classes_have_their_accuracy(found):
    names = [e["text"] for e in found.all("span", class_="name")]
    shares = [e["text"] for e in found.all("span", class_="share")]
    assert list(zip(names, shares, strict=True)) == [
        ("ant", "100.0 % of 2"), ("bee", "0.0 % of 2"), ("cow", "100.0 % of 2")
    ]  # fmt: skip


def test_the_worst_mistakes_come_first_with_their_pictures(found, tested):
    captions = [e["text"] for e in found.all("figcaption")]
    sure = np.exp([1.0, 0.25]) / (np.exp([1.0, 0.25]) + 2)
    assert captions == [
        f"bee taken for cow{100 * sure[0]:.0f}\xa0% sure, #1",
        f"bee taken for ant{100 * sure[1]:.0f}\xa0% sure, #4",
    ]
    for image, row in zip(found.all("img"), (1, 4), strict=True):
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        expected = np.round(tested[2]["image"][row, ..., 0] * 255)
        np.testing.assert_array_equal(pixels, expected)


def test_mistakes_without_pictures_are_told_in_words(tested, tmp_path, page):
    @fn.layer
    def flat(p, x):
        return x * p.param("scale", (), jax.nn.initializers.ones)

    data = {"vector": tested[2]["image"].reshape(6, -1)[:, :3], "label": tested[2]["label"]}
    _, run, _ = tested
    found = page(fn.report(tmp_path, fn.Model(flat), run, data))
    assert len(found.all("figcaption")) == 2
    assert found.all("img") == []


def test_no_mistake_is_told_too(tested, tmp_path, page):
    model, run, data = tested
    right = {name: array[[0, 2, 3]] for name, array in data.items()}
    found = page(fn.report(tmp_path, model, run, right))
    assert "none wrong" in found.all("p", class_="verdict")[0]["text"]
    assert any(e["text"] == "No mistake among 3 examples." for e in found.all("p"))
    assert "no examples" in [e["text"] for e in found.all("span", class_="share")]


def test_logits_that_are_nan_are_mistakes_and_come_first(tested, tmp_path, page):
    model, run, data = tested
    images = data["image"].copy()
    images[5] = np.nan
    found = page(fn.report(tmp_path, model, run, {**data, "image": images}))
    assert found.all("figcaption")[0]["text"] == "0 taken for nothing (NaN)#5"
    assert "3 of 6 wrong" in found.all("p", class_="verdict")[0]["text"]
    assert found.all("span", class_="share")[0]["text"] == "50.0 % of 2"


def test_a_hundred_classes_are_a_heat_map_with_counts_under_the_pointer(tmp_path, page):
    @fn.layer
    def hundred(p, x):
        return jax.nn.one_hot(x, 100) * p.param("scale", (), jax.nn.initializers.ones)

    seen = np.arange(300, dtype=np.int32) % 100
    label = np.where(seen == 7, 8, seen).astype(np.int32)
    _, run = hundred, fn.Run({"scale": jnp.ones(())}, {}, (), jnp.int32(0), jnp.uint32(0))
    path = fn.report(tmp_path, fn.Model(hundred), run, {"input": seen, "label": label})
    found = page(path)
    (heat,) = [e for e in found.all("svg") if "data-heat" in e]
    cells = json.loads(heat["data-heat"])["cells"]
    assert cells == {f"{i},{i}": 3 for i in range(100) if i != 7} | {"8,7": 3}
    assert found.rows("Confusion matrix")[1] == ["8", "7", "3", "50.0 %"]
    assert found.all("span", class_="name")[0]["text"] == "8"
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize("channels", [1, 3])
def test_pngs_decode_to_what_was_encoded(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    decoded = Image.open(io.BytesIO(encode(image)))
    decoded.load()
    assert decoded.size == (7, 5)
    np.testing.assert_array_equal(np.asarray(decoded).reshape(image.shape), image)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.uint8([0, 9, 255]), [0, 9, 255]),
        (np.float32([0, 0.5, 1]), [0, 128, 255]),
        (np.float32([0, 51, 255]), [0, 51, 255]),
        (np.int32([0, 51, 255]), [0, 51, 255]),
        (np.int32([0, 0, 1]), [0, 0, 255]),
        (np.bool_([0, 1, 1]), [0, 255, 255]),
        (np.float32([-1, 0, 3]), [0, 64, 255]),
        (np.float32([np.nan, 0, 1]), [0, 0, 255]),
        (np.asarray(jnp.array([0, 0.5, 1], jnp.bfloat16)), [0, 128, 255]),
        (np.float32([0, 0, 0]), [0, 0, 0]),
        (np.float32([1000, 2000, 3000]), [85, 170, 255]),
    ],
    ids=str,
)
def test_images_of_any_numbers_are_shown(values, expected):
    assert shown(values.reshape(1, 1, 3, 1)).reshape(-1).tolist() == expected


def test_large_images_are_made_smaller():
    image = np.arange(300 * 200 * 3, dtype=np.float64).reshape(1, 300, 200, 3) % 255
    small = shown(image.astype(np.uint8))
    assert small.shape == (1, 75, 50, 3)
    expected = image[0, :4, :4].astype(np.uint8).astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(small[0, 0, 0], expected, atol=0.5)
