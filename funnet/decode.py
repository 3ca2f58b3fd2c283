"""From a model's outputs to what it said."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks
from funnet.layers.sequence import steps_of


def ctc_greedy(
    logits: ArrayLike, *, lengths: ArrayLike | None = None, blank: int = 0
) -> tuple[jax.Array, jax.Array]:
    """The labels of the likeliest alignment, for what was trained with `fn.losses.ctc`.

    The likeliest class of every step; repetitions are merged, then blanks dropped. (Other labels
    may be likelier, for theirs may be many alignments.)

    Args:
        logits: floats (N, T, C), the blank among the classes; of equal ones the first is taken.
        lengths: integers (N,) in 0..T, how many steps count; by default all.
        blank: the class that stands for no label.

    Returns:
        Labels (N, T) int32, first those that were found, then blanks; and how many were found,
        (N,) int32.

    Raises:
        TypeError: if the logits are no floats, or the lengths no integers.
        ValueError: if a shape does not fit, or, outside `jit`, a length is out of range.

    Reference: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891

    >>> path = jnp.array([[0, 2, 2, 0, 2, 1, 1]])
    >>> labels, count = ctc_greedy(jax.nn.one_hot(path, 3))
    >>> labels.tolist(), count.tolist()
    ([[2, 2, 1, 0, 0, 0, 0]], [3])
    """
    checks.floating("logits", logits)
    logits = jnp.asarray(logits)
    if logits.ndim != 3:
        raise ValueError(f"logits has shape {logits.shape}, expected (N, T, C)")
    blank = checks.count("blank", blank, logits.shape[-1] - 1, least=0)
    inside = jnp.ones(logits.shape[:2], bool) if lengths is None else steps_of(logits, lengths)
    return _merged(logits, inside, blank)


@jax.jit  # one program, where this is called on its own
def _merged(logits: jax.Array, inside: jax.Array, blank: int) -> tuple[jax.Array, jax.Array]:
    path = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=blank)[:, :-1]
    said = inside & (path != blank) & (path != before)
    order = jnp.argsort(~said, axis=-1, stable=True)
    found = jnp.take_along_axis(jnp.where(said, path, blank), order, axis=-1)
    return found, said.sum(-1, dtype=jnp.int32)
