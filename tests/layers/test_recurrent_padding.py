"""What is padded reaches nothing: how far that holds bit for bit, for each recurrent layer.

The product of all inputs is the one operation whose size depends on the padding. On the CPU, XLA
gives a row the same bits whatever the other rows are, but for products of few rows (below 64),
hence the size of the sequences here, and programs compiled as users' are. Gradients of parameters
are sums over all steps, whose order depends on their number.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

RNG = np.random.default_rng(0)
LENGTHS = np.asarray([3, 8, 0, 1, 7, 8, 2, 5, 4], np.int32)
X = RNG.normal(size=(9, 8, 5)).astype(np.float32)
INSIDE = (np.arange(8) < LENGTHS[:, None])[..., None]
KEY = jax.random.key(0)
LAYERS = {
    "rnn": fn.rnn,
    "lstm": fn.lstm,
    "gru": fn.gru,
    "bidirectional lstm": fn.bidirectional(fn.lstm),
    "stacked gru": fn.stacked(fn.gru, 2, 0.3),
}


def weighted(tree):
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(tree)]
    return sum((leaf * jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32))).sum() for leaf in leaves)


class Padded:
    """A layer with parameters and initial states, to be run on `X` in any padding."""

    def __init__(self, name):
        self.model = fn.Model(LAYERS[name], hidden=3)
        self.params, _ = self.model.init(KEY, X)
        last = jax.eval_shape(self.model, self.params, X)[1]
        self.initial = jax.tree.map(lambda s: RNG.normal(size=s.shape).astype(s.dtype), last)
        self.results = jax.jit(self._results)

    def _results(self, x, lengths):
        """Gradients of the parameters, and everything else: the padding's share apart."""

        def loss(params, x, initial):
            settings = {"lengths": lengths, "initial": initial, "train": True, "key": KEY}
            outputs, last = self.model(params, x, **settings)
            return weighted((outputs[:, :8], last)), (outputs, last)

        pull = jax.grad(loss, (0, 1, 2), has_aux=True)
        (slopes, dx, begun), (outputs, last) = pull(self.params, x, self.initial)
        beyond = jnp.arange(x.shape[1]) >= lengths[:, None]
        padding = jnp.abs(jnp.where(beyond[..., None], dx, 0)).max()
        past = jnp.abs(jnp.where(beyond[..., None], outputs, 0)).max()
        return slopes, (dx[:, :8], begun, outputs[:, :8], last), (padding, past)


@pytest.fixture(scope="module", params=LAYERS)
def layer(request):
    return Padded(request.param)


@pytest.mark.parametrize("garbage", [100.0, np.nan, np.inf])
def test_garbage_in_the_padding_changes_not_a_bit(layer, garbage):
    expected = layer.results(np.where(INSIDE, X, 0), LENGTHS)
    found = layer.results(np.where(INSIDE, X, np.float32(garbage)), LENGTHS)
    chex.assert_trees_all_equal(found, expected)
    assert found[2] == (0, 0)


@pytest.mark.parametrize("more", [1, 9])
def test_more_padding_changes_not_a_bit(layer, more):
    slopes, expected, _ = layer.results(X, LENGTHS)
    wide = np.pad(X, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
    found_slopes, found, unused = layer.results(wide, LENGTHS)
    if jax.default_backend() == "cpu":  # elsewhere a product may be chosen by its size
        chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    assert unused == (0, 0)
    chex.assert_trees_all_close(found_slopes, slopes, rtol=1e-5, atol=1e-5)


def test_whole_sequences_need_no_lengths(layer):
    whole = np.full(9, 8, np.int32)
    given = {"initial": layer.initial}
    expected = jax.jit(layer.model)(layer.params, X, **given)
    found = jax.jit(layer.model)(layer.params, X, lengths=whole, **given)
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_row_of_no_steps_gives_its_initial_state(layer):
    _, (_, _, outputs, last), _ = layer.results(X, LENGTHS)
    assert not outputs[2].any()
    ends, begun = (jax.tree.map(lambda s: s[2], tree) for tree in (last, layer.initial))
    chex.assert_trees_all_equal(ends, begun)
