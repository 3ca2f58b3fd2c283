"""Losses of embeddings: vectors along the last axis that should lie near each other, or far."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.classes import cross_entropy
from funnet.losses.terms import above, floats

EPSILON = 1e-6  # what PyTorch adds to every difference of a triplet


def cosine(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Cosine distance, `1 - a.b / (|a| |b|)` along the last axis.

    Args:
        predictions: Floats `(..., D)`.
        targets: Floats `(..., D)`.

    Returns:
        Loss `(...)` in 0..2. The zero vector is at distance 1 from everything, with a finite
        gradient.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ.

    >>> cosine(jnp.array([[3.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 2.0], [1.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    predictions, targets = floats(predictions=predictions, targets=targets)
    return 1 - jnp.sum(_unit(predictions) * _unit(targets), axis=-1)


def triplet(
    anchor: ArrayLike, positive: ArrayLike, negative: ArrayLike, *, margin: float = 1.0
) -> jax.Array:
    """The anchor should be nearer to the positive than to the negative, by a margin.

    `max(0, |anchor - positive| - |anchor - negative| + margin)`, Euclidean along the last axis.
    As in PyTorch 1e-6 is added to each difference, which gives a pair that coincides a gradient.

    Args:
        anchor: Floats `(..., D)`.
        positive: Floats `(..., D)`, of the anchor's kind.
        negative: Floats `(..., D)`, of another kind.
        margin: By how much.

    Returns:
        Loss `(...)`, in the embeddings' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ or the margin is not above zero.

    References:
        Schroff et al. 2015, "FaceNet", https://arxiv.org/abs/1503.03832

    >>> triplet(jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]]))
    Array([4.], dtype=float32)
    """
    checks.positive("margin", margin)
    anchor, positive, negative = floats(anchor=anchor, positive=positive, negative=negative)
    near, far = _length(anchor - positive + EPSILON), _length(anchor - negative + EPSILON)
    return above(near - far + margin)


def contrastive(a: ArrayLike, b: ArrayLike, same: ArrayLike, *, margin: float = 1.0) -> jax.Array:
    """Pairs of a kind are pulled together, others pushed apart up to a margin.

    `d^2 / 2` where they are the same, else `max(0, margin - d)^2 / 2`, with d the Euclidean
    distance along the last axis. Two of different kinds that coincide have no direction to be
    pushed in, and the gradient 0.

    Args:
        a: Floats `(..., D)`.
        b: Floats `(..., D)`.
        same: Booleans `(...)`, whether the two are of a kind.
        margin: The distance beyond which nothing pushes.

    Returns:
        Loss `(...)`, in the square of the embeddings' unit.

    Raises:
        TypeError: If the embeddings are no floats or `same` are no booleans.
        ValueError: If the shapes do not belong together or the margin is not above zero.

    References:
        Hadsell et al. 2006, "Dimensionality Reduction by Learning an Invariant Mapping",
        https://doi.org/10.1109/CVPR.2006.100

    >>> a, b = jnp.zeros((2, 2)), jnp.array([[0.0, 0.5], [0.0, 0.5]])
    >>> contrastive(a, b, jnp.array([True, False])).tolist()
    [0.125, 0.125]
    """
    checks.positive("margin", margin)
    a, b = floats(a=a, b=b)
    same = _booleans("same", same, a.shape[:-1])
    gap = a - b
    together = jnp.sum(jnp.square(gap), axis=-1)
    apart = jnp.square(above(margin - _length(gap)))
    return jnp.where(same, together, apart) / 2


def nt_xent(a: ArrayLike, b: ArrayLike, *, temperature: float = 0.5) -> jax.Array:
    """Each example's two views should find each other among all views of the batch (SimCLR).

    The cross-entropy of finding the other view among the 2N - 1 others, where their cosine
    similarities over the temperature are the logits; the mean of both ways.

    Args:
        a: Floats `(N, D)`, embeddings of one view of each example, N at least 2.
        b: Floats `(N, D)`, those of another view of the same examples.
        temperature: What similarities are divided by.

    Returns:
        Loss `(N,)`, in nats. It depends on the batch: the other examples are what to tell from.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ, are not `(N, D)` with N at least 2, or the temperature
            is not above zero.

    References:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
        Representations", https://arxiv.org/abs/2002.05709

    >>> views = jnp.eye(2)
    >>> nt_xent(views, views, temperature=1.0)  # log(1 + 2 / e)
    Array([0.55144465, 0.55144465], dtype=float32)
    """
    checks.positive("temperature", temperature)
    a, b = floats(a=a, b=b)
    if a.ndim != 2 or len(a) < 2:
        raise ValueError(
            f"a has shape {a.shape}, expected (N, D) with N at least 2, for the other examples "
            "of the batch are what a pair is told from"
        )
    count = len(a)
    views = _unit(jnp.concatenate([a, b]))
    logits = jnp.matmul(views, views.T, precision=jax.lax.Precision.HIGHEST) / temperature
    others = jnp.where(np.eye(2 * count, dtype=bool), -jnp.inf, logits)
    both = cross_entropy(others, np.roll(np.arange(2 * count, dtype=np.int32), count))
    return (both[:count] + both[count:]) / 2


def _booleans(name: str, x: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    checks.array(name, x)
    x = jnp.asarray(x)
    if x.dtype != jnp.bool_:
        raise TypeError(f"{name} must be booleans, got {x.dtype}; write {name}.astype(bool)")
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}, expected one for each pair, {shape}")
    return x


def _length(x: jax.Array) -> jax.Array:
    """The Euclidean norm along the last axis; that of the zero vector has the gradient 0."""
    scaled, largest = _scaled(x)
    squares = jnp.sum(jnp.square(scaled), axis=-1)
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares))) * largest


def _unit(x: jax.Array) -> jax.Array:
    scaled, _ = _scaled(x)
    squares = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x` over its largest entry, lest squares overflow or vanish; and that entry `(...)`.

    It may count as a constant: a direction does not depend on it, a length not on the choice of
    it, and so neither does any derivative.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1))
    largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    return x / largest[..., None], largest
