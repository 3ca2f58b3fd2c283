"""How little there is to write: the definitions that people come with fit in eight lines."""

import jax
import jax.numpy as jnp

import funnet as fn

CNN = """
@fn.layer
def cnn(p, x):
    x = fn.max_pool(fn.relu(fn.conv(p["conv1"], x, 32, 3)), 2)
    x = fn.max_pool(fn.relu(fn.conv(p["conv2"], x, 64, 3)), 2)
    x = fn.relu(fn.dense(p["dense"], fn.flatten(x), 128))
    return fn.dense(p["out"], x, 10)
"""

BLOCK = """
@fn.layer
def block(p, x, width, *, stride=1):
    y = fn.relu(fn.batch_norm(p["norm1"], fn.conv(p["conv1"], x, width, 3, stride=stride)))
    y = fn.batch_norm(p["norm2"], fn.conv(p["conv2"], y, width, 3))
    if x.shape != y.shape:
        x = fn.conv(p["project"], x, width, 1, stride=stride)
    return fn.relu(x + y)
"""


def defined(source, name):
    assert len(source.strip().splitlines()) <= 8
    names = {"fn": fn}
    exec(source, names)
    return names[name]


def test_a_convolutional_network_in_eight_lines():
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    found = fn.Model(defined(CNN, "cnn")).summary(images)
    assert found.parameters == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (49 * 64 * 128 + 128) + 1290


def test_a_residual_block_in_eight_lines():
    model = fn.Model(defined(BLOCK, "block"), width=8, stride=2)
    x = jnp.ones((2, 6, 6, 4))
    params, state = model.init(jax.random.key(0), x)
    y, _ = model.apply(params, state, x, train=True)
    assert y.shape == (2, 3, 3, 8)
    assert set(params) == {"conv1", "conv2", "norm1", "norm2", "project"}
