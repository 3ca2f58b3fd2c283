"""Generation with a cache: the tokens that full passes would give, at a cost that does not grow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.models import generate, gpt

SHAPE = {"vocab": 11, "depth": 2, "width": 16, "heads": 2, "context": 64}
PLAIN = fn.Model(gpt, **SHAPE)
CACHED = fn.Model(gpt, cache=64, **SHAPE)
PROMPT = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 7)), jnp.int32)


@functools.cache
def params():
    """Larger than drawn, lest a model that repeats one token agree with anything."""
    return jax.tree.map(lambda leaf: 3 * leaf, PLAIN.init(jax.random.key(0), PROMPT)[0])


FULL = jax.jit(PLAIN)


def by_full_passes(prompt, steps):
    """What lies ahead of a token it does not see, so that one size serves all passes."""
    n, start = prompt.shape
    ids = jnp.zeros((n, 24), jnp.int32).at[:, :start].set(prompt)
    for end in range(start, start + steps):
        new = FULL(params(), ids)[:, end - 1].argmax(-1).astype(jnp.int32)
        ids = ids.at[:, end].set(new)
    return ids[:, start : start + steps]


def test_the_likeliest_tokens_are_those_of_full_passes():
    expected = by_full_passes(PROMPT, 12)
    assert len(set(expected.ravel().tolist())) > 3
    np.testing.assert_array_equal(generate(CACHED, params(), PROMPT, 12), expected)


def test_prompts_of_different_lengths_go_on_each_at_its_own_end():
    lengths = jnp.array([7, 1, 4])
    found = generate(CACHED, params(), PROMPT, 9, lengths=lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(
            found[row : row + 1], by_full_passes(PROMPT[row : row + 1, :length], 9)
        )


def test_one_step_and_one_token():
    np.testing.assert_array_equal(
        generate(CACHED, params(), PROMPT[:, :1], 1), by_full_passes(PROMPT[:, :1], 1)
    )


def test_the_cache_may_be_filled_to_the_last_place():
    found = generate(fn.Model(gpt, cache=12, **SHAPE), params(), PROMPT, 6)
    np.testing.assert_array_equal(found, by_full_passes(PROMPT, 6))
    with pytest.raises(ValueError, match=r"room for 12.*7 of the prompt with 7 steps need 13"):
        generate(fn.Model(gpt, cache=12, **SHAPE), params(), PROMPT, 7)


def test_draws_follow_the_softmax():
    prompt = jnp.tile(PROMPT[:1], (4000, 1))
    logits = PLAIN(params(), PROMPT[:1])[0, -1]
    for settings, scaled in [
        ({}, logits),
        ({"temperature": 2.0}, logits / 2),
        ({"top_k": 3}, jnp.where(logits >= jnp.sort(logits)[-3], logits, -jnp.inf)),
    ]:
        found = generate(CACHED, params(), prompt, 1, key=jax.random.key(1), **settings)[:, 0]
        share = np.bincount(found, minlength=11) / len(prompt)
        expected = jax.nn.softmax(scaled)
        bound = 5 * np.sqrt(expected * (1 - expected) / len(prompt)) + 1e-9
        assert (abs(share - expected) <= bound).all(), settings


def test_the_same_key_draws_the_same():
    draw = functools.partial(generate, CACHED, params(), PROMPT, 20)
    one, same, other = (draw(key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_hundred_tokens_after_a_prompt_of_five_hundred():
    shape = {**SHAPE, "context": 600}
    model, cached = fn.Model(gpt, **shape), fn.Model(gpt, cache=600, **shape)
    ids = jnp.asarray(np.random.default_rng(1).integers(0, 11, (2, 600)), jnp.int32)
    weights = model.init(jax.random.key(0), ids)[0]
    expected = jax.jit(model)(weights, ids)[:, 500:]

    @jax.jit
    def by_token(ids):
        state = jax.tree.map(jnp.zeros_like, cached.init(jax.random.key(0), ids)[1])
        _, state = cached.apply(weights, state, ids[:, :500])

        def step(state, token):
            logits, state = cached.apply(weights, state, token[:, None])
            return state, logits[:, 0]

        return jax.lax.scan(step, state, ids[:, 500:].T)[1].swapaxes(0, 1)

    np.testing.assert_allclose(by_token(ids), expected, rtol=1e-4, atol=1e-5)


WRONG = {
    "no cache": ((PLAIN, PROMPT, 3), {}, "cache"),
    "no prompt": ((CACHED, PROMPT[:, :0], 3), {}, "prompt"),
    "no batch": ((CACHED, PROMPT[0], 3), {}, "prompt"),
    "no steps": ((CACHED, PROMPT, 0), {}, "steps"),
    "cold": ((CACHED, PROMPT, 3), {"temperature": 0.0}, "temperature"),
    "no top": ((CACHED, PROMPT, 3), {"top_k": 0}, "top_k"),
    "long": ((CACHED, PROMPT, 3), {"lengths": jnp.array([8, 1, 1])}, r"lengths\[0\] is 8"),
    "empty": ((CACHED, PROMPT, 3), {"lengths": jnp.array([1, 0, 1])}, r"lengths\[1\] is 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    (model, prompt, steps), settings, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        generate(model, params(), prompt, steps, **settings)
