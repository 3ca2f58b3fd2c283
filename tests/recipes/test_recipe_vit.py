"""The vision transformer: digits are read, pictures left, attention is what the formula says."""

import jax
import numpy as np
import pytest
import scipy.special
from PIL import Image

import funnet as fn
from recipes import vit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = vit.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "vit")
    return settings, vit.main(settings)


def test_digits_are_read(trained):
    settings, accuracy = trained
    assert 0.75 <= accuracy <= 1
    names = {path.name for path in settings.folder.iterdir()}
    assert {"attention.png", "predictions.png", "metrics.jsonl", "checkpoints"} <= names
    for name in ("attention.png", "predictions.png"):
        with Image.open(settings.folder / name) as image:
            image.load()
            assert image.width > 700


def test_the_second_time_it_is_finished(trained):
    settings, accuracy = trained
    before = (settings.folder / "metrics.jsonl").read_text()
    assert vit.main(settings) == accuracy
    assert (settings.folder / "metrics.jsonl").read_text() == before


def reference(qkv, heads):
    """Shares by loops over examples, blocks and heads, in float64."""
    depth, examples, tokens, _ = qkv.shape
    size = qkv.shape[-1] // 3 // heads
    shares = []
    for n in range(examples):
        total = np.eye(tokens)
        for block in range(depth):
            q, k, _ = np.split(qkv[block, n].astype(np.float64), 3, axis=-1)
            seen = np.zeros((tokens, tokens))
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                scores = q[:, part] @ k[:, part].T / size**0.5
                seen += scipy.special.softmax(scores, axis=-1) / heads
            total = (seen + np.eye(tokens)) / 2 @ total
        shares.append(total[0, 1:] / total[0, 1:].sum())
    return np.array(shares)


def test_the_rollout_is_that_of_the_formula():
    qkv = np.random.default_rng(0).normal(size=(3, 2, 5, 24)).astype(np.float32)
    np.testing.assert_allclose(vit.rollout(qkv, 4), reference(qkv, 4), rtol=1e-5)


def test_queries_and_keys_lie_where_the_rollout_looks_for_them():
    """With nothing but one block's queries and keys, attention is what the layer's output tells."""
    model = fn.Model(fn.attention, heads=2)
    x = np.random.default_rng(1).normal(size=(3, 5, 16)).astype(np.float32)
    params, state = model.init(jax.random.key(0), x)
    params["out"]["kernel"] = np.eye(16, dtype=np.float32)
    found = np.asarray(model.capture(params, state, x, taps="qkv")[1]["qkv"])
    q, k, v = np.split(found.reshape(3, 5, 6, 8), 3, axis=2)  # two heads each
    scores = np.einsum("nthd,nshd->nhts", q, k) / 8**0.5
    expected = np.einsum("nhts,nshd->nthd", scipy.special.softmax(scores, -1), v)
    np.testing.assert_allclose(model(params, x), expected.reshape(3, 5, 16), rtol=1e-4, atol=1e-5)
