"""Initializers that do the same are one, so that a model that makes them anew compiles once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import funnet as fn
from funnet import initializers
from funnet.draw import canonical

X = np.ones((2, 4), np.float32)


TRACED = []


def test_an_initializer_written_inside_a_layer_is_traced_once():
    @fn.layer
    def net(p, x):
        def counting(key, shape, dtype):
            TRACED.append(shape)
            return jnp.ones(shape, dtype)

        return fn.dense(p["out"], x, 3, kernel_init=counting)

    model = fn.Model(net)
    first, second = (model.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    assert TRACED == [(4, 3)]
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_initializers_of_other_values_are_others():
    narrow, wide = canonical(initializers.normal(0.02)), canonical(initializers.normal(2.0))
    assert narrow is canonical(initializers.normal(0.02))
    assert narrow is not wide


def test_what_cannot_be_compared_is_left_as_it_is():
    def close_over(array):
        return lambda key, shape, dtype: jnp.asarray(array, dtype)

    first, second = close_over(np.zeros(3)), close_over(np.ones(3))
    assert canonical(first) is first
    assert canonical(second) is second
    assert canonical(np.ones) is np.ones


def test_a_model_may_be_initialised_inside_another_program():
    model, x, key = fn.Model(fn.dense, features=3), jnp.ones((2, 4)), jax.random.key(0)
    expected = model.init(key, x)
    shapes = jax.eval_shape(lambda: model.init(key, x))  # a key from outside, no tracer
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)
    chex.assert_trees_all_equal(jax.jit(lambda: model.init(key, x))(), expected)
