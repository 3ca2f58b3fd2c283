"""A run: everything that training changes, as one pytree."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from funnet import checks
from funnet.compiling import DRAW, quick_jit
from funnet.draw import Record, draw
from funnet.keys import named_key
from funnet.model import Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Run:
    """Parameters, model state, optimizer state, step and seed: all that a next step depends on.

    `params`, `state` and `optimizer_state` may be any pytrees, so a training with two networks and
    two optimizers is a run too. `step` counts the steps taken, () int32; `seed` is () uint32, and
    whatever is drawn in training is a function of seed, step and a name. Under `jax.vmap` a run
    is an ensemble: `jax.vmap(lambda s: Run.start(model, optimizer, x, seed=s))(jnp.arange(8))`.
    """

    params: Any
    state: Any
    optimizer_state: Any
    step: Any
    seed: Any

    @classmethod
    def start(
        cls,
        model: Model,
        optimizer: optax.GradientTransformation,
        *inputs: Any,
        seed: Any = 0,
        **more: Any,
    ) -> "Run":
        """The run before its first step, made by one jitted program.

        Args:
            model: what to train.
            optimizer: an optax optimizer, or one of `fn.optim`.
            *inputs: the model's inputs, of which only shape and dtype matter.
            seed: a non-negative int, or an array of one.
            **more: further inputs and settings of the model, by name.

        Raises:
            TypeError: if the seed is no integer.
            ValueError: if it is not in 0..2**32-1, or a pattern of the optimizer matches nothing.
        """
        checks.seed(seed)
        return _start(model.records(*inputs, **more), optimizer, jnp.asarray(seed, jnp.uint32))

    def key(self, name: str = "step") -> jax.Array:
        """The random key that this step has for whatever `name` stands for."""
        return jax.random.fold_in(named_key(jax.random.key(self.seed), name), self.step)

    def next(self, **changes: Any) -> Self:
        """This run one step later, with some of its parts replaced."""
        return dataclasses.replace(self, step=self.step + 1, **changes)


@quick_jit(DRAW, static_argnums=(0, 1))
def _start(
    records: tuple[tuple[Record, ...], ...],
    optimizer: optax.GradientTransformation,
    seed: jax.Array,
) -> Run:
    params, state = draw(records, named_key(jax.random.key(seed), "init"))
    with jax.numpy_dtype_promotion("standard"):  # which optax counts on
        kept = optimizer.init(params)
    return Run(params, state, kept, jnp.int32(0), seed)
