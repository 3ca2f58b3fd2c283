"""What JAX does to functions, of two operands `x` and `kernel` here, and how near is near."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def distance(found, expected):
    """Relative error in the norm of the whole array."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12)


def assert_near(found, expected, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert distance(a, b) <= tolerance


def pulled_back(function, x, kernel, cotangent):
    """The output, and the gradients of both operands."""
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(cotangent)


# Each use takes a convolution, x, kernel and a cotangent.


def squared(function):
    return lambda x, kernel: jnp.square(function(x, kernel)).sum()


def hessian_vector(function, x, kernel, g):
    gradient = jax.grad(squared(function), (0, 1))
    return jax.jvp(gradient, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1]


def gradient_of_gradient(function, x, kernel, g):
    def size(x, kernel):
        return sum(jnp.square(a).sum() for a in jax.grad(squared(function), (0, 1))(x, kernel))

    return jax.grad(size, (0, 1))(x, kernel)


def scanned(function, x, kernel, g):
    def step(total, x):
        return total + function(x, kernel), None

    def loss(x, kernel):
        return (lax.scan(step, jnp.zeros_like(g), x)[0] * g).sum()

    return jax.grad(loss, (0, 1))(jnp.stack([x, -2 * x, jnp.sin(x)]), kernel)


def mapped(axes):
    def both(function, x, kernel, g):
        x, kernel = (
            jnp.stack([a, 2 * a]) if m == 0 else a for a, m in zip((x, kernel), axes, strict=True)
        )
        return jax.vmap(lambda x, kernel: pulled_back(function, x, kernel, g), axes)(x, kernel)

    return both


USES = {
    "jvp": lambda f, x, kernel, g: jax.jvp(f, (x, kernel), (jnp.cos(x), jnp.sin(kernel))),
    "jvp of x": lambda f, x, kernel, g: jax.jvp(lambda x: f(x, kernel), (x,), (jnp.cos(x),)),
    "jvp of kernel": lambda f, x, kernel, g: jax.jvp(lambda k: f(x, k), (kernel,), (kernel,)),
    "hessian-vector": hessian_vector,
    "gradient of gradient": gradient_of_gradient,
    "linearize": lambda f, x, kernel, g: jax.linearize(f, x, kernel)[1](jnp.cos(x), kernel),
    "vmap over x": mapped((0, None)),
    "vmap over kernel": mapped((None, 0)),
    "vmap over both": mapped((0, 0)),
    "grad of scan": scanned,
    "checkpoint": lambda f, *arrays: pulled_back(jax.checkpoint(f), *arrays),
}
