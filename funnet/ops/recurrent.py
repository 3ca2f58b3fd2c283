"""Recurrences: the step of each kind, and the sweep that carries a state along a sequence.

A step is elementwise. Both of its products are made outside: that of the inputs for all steps at
once, before the sweep; that of the hidden state by the sweep, or by whoever takes one step.
Formulas are PyTorch's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funnet.ops.matmul import matmul

State = tuple[jax.Array, ...]  # the hidden state, then whatever else is carried
Step = Callable[[jax.Array, jax.Array, State], State]


def rnn_step(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """`h' = tanh(inputs + recurrent)`, all (N, hidden); Elman 1990."""
    return (jnp.tanh(inputs + recurrent),)


def lstm_step(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """`c' = f c + i g`, `h' = o tanh(c')`; gates i, f, g, o are the quarters of (N, 4 hidden)."""
    i, f, g, o = jnp.split(inputs + recurrent, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(inputs: jax.Array, recurrent: jax.Array, state: State) -> State:
    """`h' = (1 - z) n + z h`; r, z, n are the thirds of (N, 3 hidden), and r scales n's recurrent.

    That is PyTorch's (and cuDNN's) form, in which r acts after the product; Cho et al. 2014 have
    it act before.
    """
    r, z, n = jnp.split(inputs, 3, axis=-1)
    hidden_r, hidden_z, hidden_n = jnp.split(recurrent, 3, axis=-1)
    r, z = jax.nn.sigmoid(r + hidden_r), jax.nn.sigmoid(z + hidden_z)
    n = jnp.tanh(n + r * hidden_n)
    return ((1 - z) * n + z * state[0],)


def stepped(
    step: Step, inputs: jax.Array, kernel: Any, bias: jax.Array | None, state: State
) -> State:
    """One step, with the product of the hidden state: `h @ kernel + bias`."""
    recurrent = matmul(state[0], kernel)
    return step(inputs, recurrent if bias is None else recurrent + bias, state)


def sweep(
    step: Step,
    inputs: jax.Array,
    kernel: Any,
    bias: jax.Array | None,
    state: State,
    mask: jax.Array | None,
    *,
    reverse: bool,
) -> tuple[jax.Array, State]:
    """The hidden state after every step, and the state after the last.

    Args:
        step: one of the steps above.
        inputs: (T, N, gates · hidden), what the inputs of each step give.
        kernel: (hidden, gates · hidden), an array or what stands for one.
        bias: (gates · hidden,), added to the product of the hidden state, or None.
        state: arrays (N, hidden), the state before the first step.
        mask: (T, N), false at steps that leave the state as it is, or None.
        reverse: from the last step to the first.

    Returns:
        (T, N, hidden), and a state.
    """

    def turn(old: State, given: tuple) -> tuple[State, jax.Array]:
        inputs, inside = given
        new = stepped(step, inputs, kernel, bias, old)
        if inside is not None:
            kept = inside[:, None]
            new = tuple(jnp.where(kept, a, b) for a, b in zip(new, old, strict=True))
        return new, new[0]

    last, outputs = lax.scan(turn, state, (inputs, mask), reverse=reverse)
    return outputs, last
