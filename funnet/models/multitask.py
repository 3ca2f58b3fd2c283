"""Several tasks on one trunk."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from funnet.layers.linear import dense
from funnet.scope import Scope, layer


@layer
def multitask(
    p: Scope, x: Any, trunk: Callable[..., jax.Array], heads: Mapping[str, int]
) -> dict[str, jax.Array]:
    """One trunk, and on its features a dense head for each task.

    Args:
        p: the layer's scope.
        x: what the trunk takes.
        trunk: a layer `(p, x) -> (N, features)`, such as `conv_features`.
        heads: the number of outputs of each task, by name.

    Returns:
        (N, outputs) for each task, by name.

    Reference: Caruana 1997, https://doi.org/10.1023/A:1007379606734

    >>> import funnet as fn
    >>> digits = fn.Model(multitask, trunk=fn.models.conv_features, heads={"digit": 10, "odd": 1})
    """
    x = trunk(p["trunk"], x)
    scope = p["heads"]
    return {name: dense(scope[name], x, outputs) for name, outputs in heads.items()}
