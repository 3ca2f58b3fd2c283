"""The recipe that writes like what it read: it learns, its tables look back, its cache is exact."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from recipes import char_gpt

SHAPE = {"vocab": 11, "width": 16, "depth": 1}
briefly = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A check: its settings and its loss."""
    settings = char_gpt.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "gpt")
    return settings, char_gpt.main(settings)


def test_it_learns_more_than_pairs_and_triples_of_characters_tell(checked):
    settings, loss = checked
    ids, alphabet = fn.data.characters(fn.data.python_docs()[:60_000])
    train, test = ids[: 9 * len(ids) // 10].tolist(), ids[9 * len(ids) // 10 :].tolist()
    assert loss < counted(train, test, len(alphabet), 3)
    written = (settings.folder / "written.txt").read_text(encoding="utf8")
    assert set(written) <= set(alphabet) | set("-\n")
    assert len(written) == 4 * 127 + 3 * 7
    assert (settings.folder / "report.html").exists()


@briefly
def test_a_second_run_over_the_first_is_finished(checked):
    settings, loss = checked
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert char_gpt.main(settings) == pytest.approx(loss, rel=1e-4)
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


def counted(train, test, vocab, most):
    """The loss of counts of up to `most` characters, mixed with those of fewer."""
    chance = np.full(len(test) - most + 1, 1 / vocab)
    for n in range(1, most + 1):
        grams = [tuple(train[i : i + n]) for i in range(len(train) - n + 1)]
        whole, before = Counter(grams), Counter(gram[:-1] for gram in grams)
        asked = [tuple(test[i - n + 1 : i + 1]) for i in range(most - 1, len(test))]
        found = np.array([(whole[gram], before[gram[:-1]]) for gram in asked])
        chance = (found[:, 0] + 4 * chance) / (found[:, 1] + 4)
    return -np.log(chance).mean()


def test_the_table_of_pairs_is_one_of_counts():
    train, test = np.array([0, 1, 0, 1, 0, 2]), np.array([0, 1, 2, 0])
    shares = [3 / 6, 1 / 5, 1 / 3]  # of 0 to 1, twice in three, 1 to 2, never in two, and 2 to 0
    np.testing.assert_allclose(char_gpt.by_pairs(train, test, 3), -np.mean(np.log(shares)))


@briefly
def test_nanos_model_writes_and_a_run_that_learns_nothing_is_not_claimed(tmp_path, capsys):
    settings = char_gpt.Settings(nano=True, check=True, steps=2, folder=tmp_path, holdout=2000)
    with pytest.raises(AssertionError, match="claimed at most"):
        char_gpt.main(settings)
    assert "of text that it did not train on" in capsys.readouterr().out
    assert len((tmp_path / "written.txt").read_text(encoding="utf8")) == 4 * 63 + 3 * 7


@briefly
@pytest.mark.parametrize("n", range(1, char_gpt.BACK + 2))
def test_a_grams_row_is_its_characters_as_a_number(n):
    seen = np.random.default_rng(n).integers(0, 50, (2, char_gpt.BACK + 6))
    found, rows = char_gpt.gram(jnp.asarray(seen, jnp.int32), 50, n)
    for i, j in np.ndindex(2, 6):
        end = j + char_gpt.BACK + 1
        number = int("".join(f"{x:02d}" for x in seen[i, end - n : end]), 10)
        digits = [int(f"{number:0{2 * n}d}"[2 * k : 2 * k + 2]) for k in range(n)]
        code = sum(x * 50 ** (n - 1 - k) for k, x in enumerate(digits))
        assert found[i, j] == code % rows
    assert rows == (50**n if n < 3 else char_gpt.ROWS)


@briefly
def test_two_by_two_it_tells_what_it_tells_at_once():
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 20)), jnp.int32)
    model, cached = (fn.Model(char_gpt.decoder, **SHAPE, **how) for how in ({}, {"cache": 20}))
    params, state = cached.init(jax.random.key(0), ids)
    whole, parts, apply = jax.jit(model)(params, ids), [], jax.jit(cached.apply)
    for start in range(0, 20, 2):
        logits, state = apply(params, state, ids[:, start : start + 2])
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=2e-5)


@briefly
def test_what_comes_later_changes_nothing():
    ids = np.random.default_rng(0).integers(0, 11, (1, 12)).astype(np.int32)
    model = fn.Model(char_gpt.decoder, **SHAPE)
    params, _ = model.init(jax.random.key(0), jnp.asarray(ids))
    other = np.concatenate([ids[:, :8], (ids[:, 8:] + 1) % 11], 1)
    a, b = (jax.jit(model)(params, jnp.asarray(x)) for x in (ids, other))
    np.testing.assert_allclose(a[:, :8], b[:, :8], atol=1e-6)
    assert abs(a[:, 8:] - b[:, 8:]).max() > 0.01
