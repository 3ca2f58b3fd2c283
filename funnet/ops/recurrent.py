"""Recurrences: the step of each kind, and the sweep that carries a state along a sequence.

A step is elementwise. Both products are made outside: that of the inputs for all steps at once,
before the sweep; that of the hidden state by the sweep, or by whoever takes one step. Formulas are
PyTorch's.

Left to itself, the sweep's gradient would sum the kernel's step by step, one small product at a
time. Its rule takes a change of the kernel as a change of what the steps are given,
`h @ dkernel` for all of them in one product; so the way back is one product, too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from funnet.ops.matmul import matmul

State = tuple[jax.Array, ...]  # the hidden state, then whatever else is carried
Step = Callable[[jax.Array, State], State]


def rnn_step(gates: jax.Array, state: State) -> State:
    """`h' = tanh(gates)`, (N, hidden); Elman 1990."""
    return (jnp.tanh(gates),)


def lstm_step(gates: jax.Array, state: State) -> State:
    """`c' = f c + i g`, `h' = o tanh(c')`; gates i, f, g, o are the quarters of (N, 4 hidden)."""
    return _lstm(gates, state[1])


def gru_step(gates: jax.Array, state: State) -> State:
    """`h' = (1 - z) n + z h`, `n = tanh(a + r b)`; r, z, a, b are the quarters of (N, 4 hidden).

    `b` is the part of n that comes from the hidden state: that is PyTorch's (and cuDNN's) form, in
    which r acts after the product; Cho et al. 2014 have it act before.
    """
    r, z, a, b = jnp.split(gates, 4, axis=-1)
    r, z = jax.nn.sigmoid(r), jax.nn.sigmoid(z)
    return ((1 - z) * jnp.tanh(a + r * b) + z * state[0],)


def stepped(step: Step, inputs: jax.Array, kernel: Any, state: State) -> State:
    """One step, with the product of the hidden state, `h @ kernel`."""
    return step(inputs + _placed(matmul(state[0], kernel), inputs.shape[-1]), state)


def sweep(
    step: Step,
    inputs: jax.Array,
    kernel: Any,
    state: State,
    mask: jax.Array | None,
    *,
    reverse: bool,
) -> tuple[jax.Array, State]:
    """The hidden state after every step, and the state after the last.

    Args:
        step: one of the steps above.
        inputs: (T, N, gates), what inputs and biases give to the gates of each step.
        kernel: (hidden, gates), an array or what stands for one; for `gru_step` (hidden, 3 hidden),
            with the parts of r, z and b.
        state: arrays (N, hidden), the state before the first step.
        mask: (T, N), false at steps that leave the state as it is, or None.
        reverse: from the last step to the first.

    Returns:
        (T, N, hidden), and a state.
    """
    plain = not isinstance(kernel, jax.Array | np.ndarray)
    return (plain_sweep if plain else _sweep)(step, reverse, inputs, kernel, state, mask)


def plain_sweep(
    step: Step, reverse: bool, inputs: jax.Array, kernel: Any, state: State, mask: jax.Array | None
) -> tuple[jax.Array, State]:
    """As `sweep`, with JAX's own gradient."""

    def turn(old: State, given: tuple) -> tuple[State, jax.Array]:
        inputs, inside = given
        new = stepped(step, inputs, kernel, old)
        if inside is not None:
            kept = inside[:, None]
            new = tuple(jnp.where(kept, a, b) for a, b in zip(new, old, strict=True))
        return new, new[0]

    last, outputs = lax.scan(turn, state, (inputs, mask), reverse=reverse)
    return outputs, last


_sweep = jax.custom_jvp(plain_sweep, nondiff_argnums=(0, 1))


@functools.partial(_sweep.defjvp, symbolic_zeros=True)
def _sweep_jvp(step: Step, reverse: bool, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (inputs, kernel, state, mask), (dinputs, dkernel, *dstate, _) = primals, tangents
    fixed = lambda inputs, state: plain_sweep(step, reverse, inputs, kernel, state, mask)  # noqa: E731
    (outputs, last), forward = jax.linearize(fixed, inputs, state)
    dinputs, dstate = jax.tree.map(_instantiated, (dinputs, dstate[0]), is_leaf=_is_zero)
    if not _is_zero(dkernel):
        first = state[0][None]
        parts = (outputs[1:], first) if reverse else (first, outputs[:-1])
        changed = matmul(jnp.concatenate(parts), dkernel)
        dinputs = dinputs + _placed(changed, inputs.shape[-1])
    return (outputs, last), forward(dinputs, dstate)


@jax.custom_jvp
def _lstm(gates: jax.Array, cell: jax.Array) -> State:
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


@_lstm.defjvp
def _lstm_jvp(primals: Any, tangents: Any) -> tuple[State, State]:
    """Keeps three arrays of a step for the gradient, where the plain formula would keep eleven."""
    (gates, cell), (dgates, dcell) = primals, tangents
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    new = f * cell + i * g
    high = jnp.tanh(new)
    slopes = (g * i * (1 - i), cell * f * (1 - f), i * (1 - g * g), high * o * (1 - o))
    di, df, dg, do = jnp.split(jnp.concatenate(slopes, -1) * dgates, 4, axis=-1)
    dnew = f * dcell + di + df + dg
    return (o * high, new), (o * (1 - high * high) * dnew + do, dnew)


def _placed(product: jax.Array, width: int) -> jax.Array:
    """The product of the hidden state where it belongs among the gates: a GRU's has none for a."""
    if product.shape[-1] == width:
        return product
    early, late = jnp.split(product, [width // 2], axis=-1)
    return jnp.concatenate([early, jnp.zeros_like(late), late], axis=-1)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _instantiated(x: Any) -> jax.Array:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x
