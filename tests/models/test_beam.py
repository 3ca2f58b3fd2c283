"""Beam search against all sequences there are, and against a search in NumPy by full passes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.models import beam_search, decode, generate, gpt, transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, END, STEPS = 4, 2, 4
SHAPE = {"depth": 2, "width": 16, "heads": 2, "context": 16}
PLAIN = fn.Model(gpt, vocab=VOCAB, **SHAPE)
CACHED = fn.Model(gpt, vocab=VOCAB, cache=16, **SHAPE)
TRANSLATOR = fn.Model(transformer, vocab=VOCAB, **SHAPE)
DECODER = fn.Model(decode, vocab=VOCAB, cache=16, **SHAPE)
PROMPT = np.array([[3, 1, 0], [1, 0, 1], [0, 3, 3]], np.int32)
SOURCE = np.random.default_rng(1).integers(0, VOCAB, (3, 5)).astype(np.int32)
SOURCE_LENGTHS = np.array([5, 2, 3], np.int32)


def drawn(shapes, seed):
    """Parameters of some size, lest a model that repeats one token agree with anything."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        size = 0.1 if path[-1].key == "bias" else 1.0
        return jnp.asarray(rng.normal(0, size, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def params():
    return drawn(PLAIN.shapes(PROMPT)[0], 3)


@functools.cache
def translating():
    return drawn(TRANSLATOR.shapes(SOURCE, PROMPT)[0], 1)


@functools.cache
def memory():
    model = fn.Model(fn.models.encode, vocab=VOCAB, **SHAPE)
    return model(translating(), SOURCE, lengths=SOURCE_LENGTHS)


FULL = jax.jit(PLAIN)
TRANSLATED = jax.jit(lambda ids, **lengths: TRANSLATOR(translating(), SOURCE, ids, **lengths))


def all_chances(full, length=3):
    """Log-probabilities (N, T, vocab) after each prefix of all sequences: {prefix: (N, vocab)}."""
    found = {}
    for size in range(STEPS):
        for prefix in itertools.product(range(VOCAB), repeat=size):
            ids = np.zeros((3, 8), np.int32)  # what lies ahead is not seen
            ids[:, :length] = PROMPT[:, :length]
            ids[:, length : length + size] = prefix
            logits = np.asarray(full(ids), np.float64)[:, length + size - 1]
            found[prefix] = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return found


@functools.cache
def of_gpt(length=3):
    return all_chances(lambda ids: FULL(params(), ids), length)


@functools.cache
def of_translator():
    return all_chances(lambda ids: TRANSLATED(ids, source_lengths=SOURCE_LENGTHS))


def scored(chances, row, tokens, penalty):
    total = sum(chances[tokens[:i]][row, token] for i, token in enumerate(tokens))
    return total / ((5 + len(tokens)) / 6) ** penalty


def exhaustive(chances, row, penalty):
    """All sequences that end, or are as long as may be, the best first."""
    every = [
        tokens
        for size in range(1, STEPS + 1)
        for tokens in itertools.product(range(VOCAB), repeat=size)
        if END not in tokens[:-1] and (tokens[-1] == END or size == STEPS)
    ]
    return sorted(((scored(chances, row, t, penalty), t) for t in every), reverse=True)


def by_beams(chances, row, beams, penalty):
    """The search as its description has it."""
    best = [()]
    for _ in range(STEPS):
        ended = [tokens for tokens in best if tokens[-1:] == (END,)]
        grown = [(*t, token) for t in best if t not in ended for token in range(VOCAB)]
        best = sorted(ended + grown, key=lambda t: -scored(chances, row, t, penalty))[:beams]
    return [(scored(chances, row, tokens, penalty), tokens) for tokens in best]


def assert_found(found, expected):
    """That each row has these hypotheses, (score, tokens), and nothing else."""
    for row, hypotheses in enumerate(expected):
        for beam, (score, tokens) in enumerate(hypotheses):
            assert int(found.lengths[row, beam]) == len(tokens)
            padded = [*tokens, *[END] * (STEPS - len(tokens))]
            assert found.tokens[row, beam].tolist() == padded
            np.testing.assert_allclose(found.scores[row, beam], score, rtol=1e-4, atol=1e-4)
        assert np.isneginf(found.scores[row, len(hypotheses) :]).all()


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_with_beams_enough_it_is_exhaustive(penalty):
    found = beam_search(CACHED, params(), PROMPT, STEPS, end=END, beams=130, penalty=penalty)
    expected = [exhaustive(of_gpt(), row, penalty) for row in range(3)]
    assert len(expected[0]) == 1 + 3 + 9 + 27 * 4
    assert len({tuple(hypotheses[0][1]) for hypotheses in expected}) > 1
    assert_found(found, expected)


@pytest.mark.parametrize(("beams", "penalty"), [(2, 0.6), (3, 0.0), (5, 1.0)])
def test_with_few_beams_it_keeps_the_best(beams, penalty):
    found = beam_search(CACHED, params(), PROMPT, STEPS, end=END, beams=beams, penalty=penalty)
    assert_found(found, [by_beams(of_gpt(), row, beams, penalty) for row in range(3)])


def test_one_beam_is_greedy():
    found = beam_search(CACHED, params(), PROMPT, 9, end=END, beams=1)
    greedy = np.array(generate(CACHED, params(), PROMPT, 9))
    for row, tokens in enumerate(greedy):
        length = [*tokens, END].index(END) + 1 if END in tokens else 9
        assert int(found.lengths[row, 0]) == length
        np.testing.assert_array_equal(found.tokens[row, 0, :length], tokens[:length])
    assert len({tuple(tokens) for tokens in greedy.tolist()}) > 1


@pytest.mark.parametrize("lengths", [(2, 2, 2), (3, 1, 2), (1, 1, 1)])
def test_a_prompt_ends_where_its_length_says(lengths):
    found = beam_search(
        CACHED, params(), PROMPT, STEPS, end=END, beams=3, lengths=np.array(lengths)
    )
    assert_found(found, [by_beams(of_gpt(n), row, 3, 0.6) for row, n in enumerate(lengths)])


def test_a_prompt_may_be_one_token():
    found = beam_search(CACHED, params(), PROMPT[:, :1], STEPS, end=END, beams=3)
    assert_found(found, [by_beams(of_gpt(1), row, 3, 0.6) for row in range(3)])


@pytest.mark.parametrize("beams", [2, 130])
def test_a_translation_sees_its_own_source_and_no_padding(beams):
    more = {"memory": memory(), "memory_lengths": SOURCE_LENGTHS}
    found = beam_search(DECODER, translating(), PROMPT, STEPS, end=END, beams=beams, **more)
    chances = of_translator()
    expected = {
        2: [by_beams(chances, row, 2, 0.6) for row in range(3)],
        130: [exhaustive(chances, row, 0.6) for row in range(3)],
    }
    assert_found(found, expected[beams])


def test_it_stops_when_all_have_ended():
    """A table that makes the end certain: no step beyond the first is taken."""
    table = {"tokens": {"table": jnp.zeros((VOCAB, 1)).at[END].set(200.0)}}

    @fn.layer
    def ends(p, ids, vocab, cache):
        p.variable("length", ids.shape[:1], fn.initializers.zeros, jnp.int32)
        return fn.unembed(p["tokens"], jnp.ones((*ids.shape, 1)), vocab)

    found = beam_search(
        fn.Model(ends, vocab=VOCAB, cache=9), table, PROMPT, 6, end=END, beams=2, penalty=0.0
    )
    assert (found.tokens[:, 0] == END).all()
    assert found.lengths[:, 0].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.scores[:, 0], 0, atol=1e-6)
    assert found.lengths[:, 1].tolist() == [2, 2, 2]


def test_it_runs_inside_jit_and_the_cache_may_be_filled_to_the_last_place():
    tight = fn.Model(gpt, vocab=VOCAB, cache=6, **SHAPE)
    search = functools.partial(beam_search, tight, steps=STEPS, end=END, beams=3)
    found = jax.jit(lambda params, prompt: search(params, prompt))(params(), PROMPT)
    assert_found(found, [by_beams(of_gpt(), row, 3, 0.6) for row in range(3)])


def test_half_precision_scores_in_single():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    found = beam_search(CACHED, half, PROMPT, STEPS, end=END, beams=2)
    assert found.scores.dtype == jnp.float32


WRONG = {
    "no cache": ({"model": PLAIN}, "beam_search needs a model with a cache"),
    "no room": ({"steps": 15}, r"room for 16 tokens, and 3 of the prompt with 15 steps need 17"),
    "no prompt": ({"prompt": PROMPT[:, :0]}, "prompt must have shape"),
    "no batch": ({"prompt": PROMPT[0]}, "prompt must have shape"),
    "no steps": ({"steps": 0}, "steps is 0"),
    "no beams": ({"beams": 0}, "beams is 0"),
    "no token": ({"end": VOCAB}, r"end is 4, expected 0 <= end <= 3"),
    "below": ({"end": -1}, "end is -1"),
    "penalty": ({"penalty": -0.1}, r"penalty is -0\.1, expected 0 <= penalty"),
    "long": ({"lengths": np.array([4, 1, 1])}, r"lengths\[0\] is 4"),
    "empty": ({"lengths": np.array([1, 0, 1])}, r"lengths\[1\] is 0"),
    "few": ({"lengths": np.array([1, 1])}, "lengths must have one row for each of the 3 prompts"),
    "setting": ({"memory": 3}, r"memory must have one row .* fn.Model\(..., memory=...\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    changes, message = WRONG[wrong]
    given = {"model": CACHED, "params": params(), "prompt": PROMPT, "steps": 3, "end": END}
    with pytest.raises(ValueError, match=message):
        beam_search(**{**given, **changes})


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="prompt must be integers"):
        beam_search(CACHED, params(), PROMPT.astype(np.float32), 3, end=END)
    with pytest.raises(TypeError, match="beams must be an integer"):
        beam_search(CACHED, params(), PROMPT, 3, end=END, beams=1.5)
