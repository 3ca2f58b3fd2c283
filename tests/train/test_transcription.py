"""The objective of transcription: CTC's loss, and how many labels its transcript has wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

MODEL = fn.Model(fn.dense, features=4)
PARAMS = {"kernel": 3 * jnp.eye(4), "bias": jnp.zeros(4)}


def data(n=5, time=7):
    rng = np.random.default_rng(0)
    label = rng.integers(1, 4, (n, 3)).astype(np.int32)
    sound = rng.normal(size=(n, time, 4)).astype(np.float32)
    return {"sound": sound, "label": label, "count": rng.integers(0, 4, n).astype(np.int32)}


@pytest.mark.parametrize("batch_size", [5, 2])
def test_it_is_the_loss_and_the_error_rate(batch_size):
    batch = data()
    run = fn.Run(PARAMS, {}, (), jnp.int32(0), jnp.uint32(0))
    found = fn.evaluate(fn.transcription(MODEL), run, batch, batch_size=batch_size)
    logits = MODEL(PARAMS, batch["sound"])
    expected = fn.losses.ctc(logits, batch["label"], label_lengths=batch["count"]).mean()
    said, many = fn.ctc_greedy(logits)
    wrong = fn.metrics.error_rate(said, batch["label"], many, batch["count"]).value
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["error_rate"], wrong, rtol=1e-6)


def test_what_is_said_is_read():
    said = jnp.array([[0, 1, 1, 0, 1, 3, 0]])
    batch = {"x": jax.nn.one_hot(said, 4), "label": jnp.array([[1, 1, 3]]), "count": jnp.array([3])}
    objective = fn.transcription(MODEL, input="x")
    _, (_, found) = objective(PARAMS, {}, batch, train=False, key=None)
    assert found["error_rate"].value == 0
    shorter = {**batch, "count": jnp.array([2])}
    _, (_, found) = objective(PARAMS, {}, shorter, train=False, key=None)
    assert found["error_rate"].value == 0.5
