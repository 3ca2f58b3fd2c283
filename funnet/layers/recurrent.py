"""Recurrent layers over (N, T, in), and their cells, for one step at a time.

A layer and its cell share parameters and step. Lengths say how many steps of each sequence count;
the others leave the state as it is, so a sweep in either direction needs no gather.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import initializers
from funnet.checks import count, floating
from funnet.describe import describe
from funnet.draw import Initializer
from funnet.layers.linear import KERNEL
from funnet.layers.sequence import masked, steps_of
from funnet.ops.matmul import matmul
from funnet.ops.recurrent import State, Step, gru_step, lstm_step, rnn_step, stepped, sweep
from funnet.scope import Scope, layer

Pair = tuple[jax.Array, jax.Array]
ORTHOGONAL = initializers.orthogonal()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What tells one recurrence from another."""

    step: Step
    gates: int
    bias_init: Initializer = initializers.zeros
    hidden_bias: bool = False  # a second bias, that of the hidden state's product
    parts: tuple[str, ...] = ("h",)  # of the state


def forget_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Zeros, and ones for the second of four gates: at first an LSTM does not forget."""
    hidden = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


RNN = Kind(rnn_step, 1)
LSTM = Kind(lstm_step, 4, bias_init=forget_bias, parts=("h", "c"))
GRU = Kind(gru_step, 3, hidden_bias=True)


@layer
def rnn(
    p: Scope,
    x: jax.Array,
    hidden: int,
    *,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    initial: jax.Array | None = None,
) -> Pair:
    """A recurrence `h' = tanh(x @ input_kernel + h @ hidden_kernel + bias)` over the steps of `x`.

    Args:
        p: the layer's scope.
        x: (N, T, in) of a floating dtype, which is also that of the results.
        hidden: the size of the state.
        lengths: (N,) integers in 0..T, how many steps of each sequence count; all, if not given.
        reverse: from each sequence's last step to its first.
        initial: (N, hidden), the state before the first step, zeros if not given.

    Returns:
        The state after every step, (N, T, hidden), zero past a length; and the state at each
        sequence's own end, (N, hidden), which in reverse is that after its first step.

    Parameters: `input_kernel` (in, hidden), `hidden_kernel` (hidden, hidden), `bias` (hidden,).

    Raises:
        TypeError: if `x` or `initial` is not of a floating dtype, or `lengths` are no integers.
        ValueError: if a shape does not fit, or, outside `jit`, a length is out of range.

    Reference: Elman 1990, https://doi.org/10.1207/s15516709cog1402_1

    >>> import funnet as fn, jax.numpy as jnp
    >>> model, x = fn.Model(fn.rnn, hidden=4), jnp.ones((2, 5, 3))
    >>> params, _ = model.init(jax.random.key(0), x)
    >>> outputs, last = model(params, x, lengths=jnp.array([5, 2]))
    >>> bool((outputs[1, 1] == last[1]).all()), bool((outputs[1, 2:] == 0).all())
    (True, True)
    """
    outputs, (last,) = _swept(RNN, p, x, hidden, lengths, reverse, initial)
    return outputs, last


@layer
def lstm(
    p: Scope,
    x: jax.Array,
    hidden: int,
    *,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    initial: Pair | None = None,
) -> tuple[jax.Array, Pair]:
    """A long short-term memory: `c' = f c + i g` and `h' = o tanh(c')`.

    In this order, i, f, g and o are the quarters of `x @ input_kernel + h @ hidden_kernel + bias`,
    g through a tanh, the gates through a sigmoid. The bias begins at zero, for f at one.

    Args:
        p: the layer's scope.
        x: (N, T, in) of a floating dtype, which is also that of the results.
        hidden: the size of the state.
        lengths: (N,) integers in 0..T, how many steps of each sequence count; all, if not given.
        reverse: from each sequence's last step to its first.
        initial: the pair (h, c) before the first step, each (N, hidden), zeros if not given.

    Returns:
        h after every step, (N, T, hidden), zero past a length; and the pair (h, c) at each
        sequence's own end, each (N, hidden), which in reverse is that after its first step.

    Parameters: `input_kernel` (in, 4 · hidden), `hidden_kernel` (hidden, 4 · hidden), `bias`
    (4 · hidden,).

    Raises:
        TypeError: if `x` or `initial` is not of a floating dtype, or `lengths` are no integers.
        ValueError: if a shape does not fit, or, outside `jit`, a length is out of range.

    Reference: Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735; the
    forget gate: Gers et al. 2000, https://doi.org/10.1162/089976600300015015; its bias: Jozefowicz
    et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html

    >>> import funnet as fn, jax.numpy as jnp
    >>> shapes, _ = fn.Model(fn.lstm, hidden=4).shapes(jnp.ones((2, 5, 3)))
    >>> shapes["input_kernel"].shape, shapes["hidden_kernel"].shape
    ((3, 16), (4, 16))
    """
    outputs, (h, c) = _swept(LSTM, p, x, hidden, lengths, reverse, initial)
    return outputs, (h, c)


@layer
def gru(
    p: Scope,
    x: jax.Array,
    hidden: int,
    *,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    initial: jax.Array | None = None,
) -> Pair:
    """A gated recurrent unit: `h' = (1 - z) n + z h`.

    With a = `x @ input_kernel + bias` and b = `h @ hidden_kernel + hidden_bias`, each in thirds:
    `r = sigmoid(a_r + b_r)`, `z = sigmoid(a_z + b_z)`, `n = tanh(a_n + r b_n)`, as in PyTorch.

    Args:
        p: the layer's scope.
        x: (N, T, in) of a floating dtype, which is also that of the results.
        hidden: the size of the state.
        lengths: (N,) integers in 0..T, how many steps of each sequence count; all, if not given.
        reverse: from each sequence's last step to its first.
        initial: (N, hidden), the state before the first step, zeros if not given.

    Returns:
        The state after every step, (N, T, hidden), zero past a length; and the state at each
        sequence's own end, (N, hidden), which in reverse is that after its first step.

    Parameters: `input_kernel` (in, 3 · hidden), `hidden_kernel` (hidden, 3 · hidden), `bias` and
    `hidden_bias` (3 · hidden,).

    Raises:
        TypeError: if `x` or `initial` is not of a floating dtype, or `lengths` are no integers.
        ValueError: if a shape does not fit, or, outside `jit`, a length is out of range.

    Reference: Cho et al. 2014, https://arxiv.org/abs/1406.1078

    >>> import funnet as fn, jax.numpy as jnp
    >>> list(fn.Model(fn.gru, hidden=4).shapes(jnp.ones((2, 5, 3)))[0])
    ['input_kernel', 'hidden_kernel', 'bias', 'hidden_bias']
    """
    outputs, (last,) = _swept(GRU, p, x, hidden, lengths, reverse, initial)
    return outputs, last


@layer
def rnn_cell(p: Scope, x: jax.Array, state: jax.Array) -> Pair:
    """One step of `rnn`, on its parameters.

    Args:
        p: the layer's scope.
        x: (N, in) of a floating dtype, which is also that of the results.
        state: (N, hidden).

    Returns:
        The output, (N, hidden), and the next state, which for this cell are one.

    Parameters: as `rnn`.
    """
    (h,) = _stepped(RNN, p, x, state)
    return h, h


@layer
def lstm_cell(p: Scope, x: jax.Array, state: Pair) -> tuple[jax.Array, Pair]:
    """One step of `lstm`, on its parameters.

    Args:
        p: the layer's scope.
        x: (N, in) of a floating dtype, which is also that of the results.
        state: the pair (h, c), each (N, hidden).

    Returns:
        The output, which is h, (N, hidden), and the next (h, c).

    Parameters: as `lstm`.

    >>> import funnet as fn, jax.numpy as jnp
    >>> model, x, zeros = fn.Model(fn.lstm_cell), jnp.ones((2, 3)), jnp.zeros((2, 4))
    >>> params, _ = model.init(jax.random.key(0), x, (zeros, zeros))
    >>> output, state = model(params, x, (zeros, zeros))
    >>> output, (h, c) = model(params, x, state)
    """
    h, c = _stepped(LSTM, p, x, state)
    return h, (h, c)


@layer
def gru_cell(p: Scope, x: jax.Array, state: jax.Array) -> Pair:
    """One step of `gru`, on its parameters.

    Args:
        p: the layer's scope.
        x: (N, in) of a floating dtype, which is also that of the results.
        state: (N, hidden).

    Returns:
        The output, (N, hidden), and the next state, which for this cell are one.

    Parameters: as `gru`.
    """
    (h,) = _stepped(GRU, p, x, state)
    return h, h


def _swept(kind: Kind, p: Scope, x: jax.Array, hidden: int, lengths, reverse: bool, initial):
    """The outputs (N, T, hidden), and the last state as a tuple."""
    floating("x", x)
    count("hidden", hidden)
    if x.ndim != 3:
        raise ValueError(
            f"x must have shape (N, T, in), got {x.shape}; add a missing batch axis with x[None]"
        )
    mask = None if lengths is None else steps_of(x, lengths)
    x = x if mask is None else masked(x, mask)
    state = _state(kind, "initial", initial, x, hidden)
    inputs, kernel = _parameters(kind, p, x.swapaxes(0, 1), hidden)
    steps = None if mask is None else mask.T
    outputs, last = sweep(kind.step, inputs, kernel, state, steps, reverse=reverse)
    outputs = outputs.swapaxes(0, 1)
    return outputs if mask is None else masked(outputs, mask), last


def _stepped(kind: Kind, p: Scope, x: jax.Array, state: Any) -> tuple[jax.Array, ...]:
    floating("x", x)
    if x.ndim != 2:
        raise ValueError(f"a cell takes one step, x of shape (N, in), got {x.shape}")
    if state is None:
        raise TypeError("a cell needs a state, got None; begin with jnp.zeros((N, hidden))")
    each = _state(kind, "state", state, x, None)
    inputs, kernel = _parameters(kind, p, x, each[0].shape[-1])
    return stepped(kind.step, inputs, kernel, each)


def _parameters(kind: Kind, p: Scope, x: jax.Array, hidden: int):
    """What `x` (..., in) and the biases give to the gates, and the hidden state's kernel."""
    size = kind.gates * hidden
    input_kernel = p.param("input_kernel", (x.shape[-1], size), KERNEL)
    hidden_kernel = p.param("hidden_kernel", (hidden, size), gate_orthogonal(kind.gates))
    bias = p.param("bias", (size,), kind.bias_init).astype(x.dtype)
    given = matmul(x, input_kernel) + bias
    if kind.hidden_bias:
        hidden_bias = p.param("hidden_bias", (size,), initializers.zeros).astype(x.dtype)
        early, late = jnp.split(hidden_bias, [2 * hidden])
        late = jnp.broadcast_to(late, (*given.shape[:-1], hidden))
        given = jnp.concatenate([given + jnp.pad(early, (0, hidden)), late], axis=-1)
    return given, hidden_kernel


def gate_orthogonal(gates: int) -> Initializer:
    """An orthogonal matrix for each gate, side by side: no gate begins with a longer memory."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        one = (shape[0], shape[1] // gates)
        blocks = [ORTHOGONAL(own, one, dtype) for own in jax.random.split(key, gates)]
        return jnp.concatenate(blocks, axis=-1)

    return init


def _state(kind: Kind, name: str, state: Any, x: jax.Array, hidden: int | None) -> State:
    """The state as a tuple of arrays (N, hidden) in the dtype of `x`, zeros for None."""
    if state is None:
        return (jnp.zeros((x.shape[0], hidden or 0), x.dtype),) * len(kind.parts)
    one = len(kind.parts) == 1
    each = {name: state} if one else dict(zip(*parted(name, state, kind.parts), strict=True))
    size = hidden
    for own, array in each.items():
        floating(own, array)
        size = array.shape[-1] if size is None and array.ndim else size
        if array.shape != (x.shape[0], size):
            raise ValueError(
                f"{own} has shape {array.shape}, expected (N, hidden) = {(x.shape[0], size)} "
                f"for x of shape {x.shape}"
            )
    return tuple(jnp.asarray(array, x.dtype) for array in each.values())


def parted(name: str, state: Any, parts: Sequence[str]) -> tuple[list[str], Sequence[Any]]:
    """The names of a state's parts, and the parts; None stands for all of them.

    Raises:
        TypeError: if it is not a tuple of so many.
    """
    names = [f"{name}[{i}]" for i in range(len(parts))]
    if state is None:
        return names, [None] * len(parts)
    if not isinstance(state, tuple | list) or len(state) != len(parts):
        got = f"{type(state).__name__} of {describe(state) or 'no arrays'}"
        raise TypeError(f"{name} must be a tuple ({', '.join(parts)}), got a {got}")
    return names, state
