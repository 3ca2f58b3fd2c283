"""An optimizer that a training step knows more of than how to call it.

It is an optax optimizer, with a base that does the work and up to three things about it: what is
frozen, whether an average is kept, whether the loss is scaled. They are fields, so in whatever
order they were said it is the same optimizer, with the same state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funnet.ops.precision import widened
from funnet.optim.paths import paths, split
from funnet.select import matches, select

Tree = Any


class Average(NamedTuple):
    """An average of parameters: how many steps are in it, () int32, and the parameters."""

    count: Any
    params: Tree


class LossScale(NamedTuple):
    """What the loss is multiplied by, () float32, and for how many sound steps, () int32."""

    scale: Any
    good: Any


class Scaling(NamedTuple):
    """How a loss is scaled: the first factor, and the sound steps after which it doubles."""

    initial: float
    interval: int


class State(NamedTuple):
    """The state of an `Optimizer`: that of its base, and what else it keeps, or None."""

    inner: Any
    average: Average | None = None
    loss_scale: LossScale | None = None


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax optimizer that `freeze`, `average` and `scale_loss` have said something about.

    A custom step calls `update` with the gradient of the trainable leaves, `split(params)[0]`, of
    a loss multiplied by `run.optimizer_state.loss_scale.scale`, divided by it again.
    """

    base: optax.GradientTransformationExtraArgs
    frozen: tuple[str, ...] = ()
    decay: float | None = None
    scaling: Scaling | None = None

    def __new__(
        cls,
        base: optax.GradientTransformation,
        frozen: tuple[str, ...] = (),
        decay: float | None = None,
        scaling: Scaling | None = None,
    ) -> "Optimizer":
        """An optimizer with `init` and `update` as optax wants them."""
        base = optax.with_extra_args_support(base)

        def init(params: Tree) -> Any:
            return _begun(self, params)

        def update(updates: Tree, state: Any, params: Tree = None, **extra_args: Any) -> Any:
            return _updated(self, updates, state, params, extra_args)

        self = super().__new__(cls, init, update)
        self.base, self.frozen, self.decay, self.scaling = base, frozen, decay, scaling
        return self

    def split(self, params: Tree) -> tuple[Tree, Tree]:
        """The trainable leaves and the frozen ones: two trees, what is not theirs masked out."""
        return split(params, self.frozen)


def extended(optimizer: optax.GradientTransformation, **more: Any) -> Optimizer:
    """The optimizer with some of its fields replaced, or one of that base."""
    known = {"base": optimizer}
    if isinstance(optimizer, Optimizer):
        known = {name: getattr(optimizer, name) for name in ("base", "frozen", "decay", "scaling")}
    return Optimizer(**{**known, **more})


def _begun(optimizer: Optimizer, params: Tree) -> State:
    select(optimizer.frozen, paths(params))  # which refuses a pattern that matches nothing
    trainable, _ = optimizer.split(params)
    if not jax.tree.leaves(trainable):
        raise ValueError(
            f"all parameters are frozen by {', '.join(map(repr, optimizer.frozen))}: there is "
            "nothing left to train"
        )
    state = State(optimizer.base.init(trainable))
    if optimizer.decay is not None:
        first = jax.tree.map(lambda x: widened(jnp.array(x)), trainable)
        state = state._replace(average=Average(jnp.int32(0), first))
    if optimizer.scaling is not None:
        scale = jnp.float32(optimizer.scaling.initial)
        state = state._replace(loss_scale=LossScale(scale, jnp.int32(0)))
    return state


def _updated(optimizer: Optimizer, gradients: Tree, state: State, params: Tree, more: dict):
    _refuse_frozen(optimizer, gradients)
    updates, inner = optimizer.base.update(gradients, state.inner, params, **more)
    new = State(inner, _moved(optimizer, state.average, params, updates), state.loss_scale)
    if optimizer.scaling is None:
        return updates, new
    finite = jnp.all(jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)]))
    still = jax.tree.map(jnp.zeros_like, updates), state
    updates, new = jax.lax.cond(finite, lambda: (updates, new), lambda: still)
    return updates, new._replace(loss_scale=_rescaled(optimizer, state.loss_scale, finite))


def _refuse_frozen(optimizer: Optimizer, gradients: Tree) -> None:
    for path in paths(gradients, masked=False):
        for pattern in optimizer.frozen:
            if matches(path, pattern):
                raise ValueError(
                    f"there is a gradient of {path}, which {pattern!r} freezes: put freeze "
                    f"outermost, fn.optim.freeze(optax.chain(...), {pattern!r}), and train with "
                    "fn.train_step; a step of your own takes the gradient of what "
                    "optimizer.split(params) gives"
                )


def _moved(optimizer: Optimizer, average: Any, params: Tree, updates: Tree) -> Average | None:
    """The average with the parameters that the updates lead to, as the n-th of it."""
    if average is None or optimizer.decay is None:
        return None
    count = optax.safe_increment(average.count)
    step = jnp.maximum(1 - optimizer.decay, 1 / jnp.asarray(count, jnp.float32))
    latest = jax.tree.map(widened, optax.apply_updates(params, updates))
    moved = optax.incremental_update(latest, average.params, step)
    return Average(count, jax.tree.map(lambda new, x: jnp.asarray(new, x.dtype), moved, latest))


def _rescaled(optimizer: Optimizer, loss_scale: Any, finite: jax.Array) -> LossScale:
    """Half the scale, at least 1, after an overflow; twice the scale after enough sound steps."""
    interval = optimizer.scaling.interval if optimizer.scaling else 1
    scale, good = loss_scale.scale, loss_scale.good + 1
    twice = jnp.where(jnp.isfinite(2 * scale), 2 * scale, scale)
    sound = jnp.where(good >= interval, twice, scale)
    new = jnp.where(finite, sound, jnp.maximum(scale / 2, 1))
    return LossScale(new, jnp.where(finite & (good < interval), good, 0))
