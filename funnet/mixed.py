"""Mixed precision as a lift: layers compute in half precision, parameters stay in float32.

Within it every layer gets its floating inputs in the half dtype, whatever came between, and the
scope hands out kernels and tables in it; biases and the scales of norms come as they are stored,
for layers to cast where they use them. What is stored is float32, and so are gradients.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from funnet.describe import describe
from funnet.scope import Scope

Layer = TypeVar("Layer", bound=Callable[..., Any])
DTYPES = ("bfloat16", "float16", "float32")


def mixed(layer: Layer, dtype: DTypeLike = "bfloat16") -> Layer:
    """A layer that computes in `dtype`, and all layers in it; its floating results are float32.

    Bytes stay bytes until the net makes floats of them (`fn.normalise`), which the next layer then
    gets in `dtype`. Norms, softmax and losses sum in float32 as ever; state is kept in the dtype it
    has. Within one lift another one is for what is within it: `fn.mixed(router, "float32")` keeps a
    part in full precision. Float16 has a small range: train it with `fn.optim.scale_loss`.

    Args:
        layer: any layer.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`.

    Returns:
        The layer, called as before. Taps within give what is computed, in `dtype`.

    Raises:
        TypeError: if `layer` is no layer.
        ValueError: if `dtype` is none of these.

    Reference: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740

    >>> import funnet as fn
    >>> model = fn.Model(fn.mixed(fn.models.mlp), widths=(32, 10))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> {leaf.dtype.name for leaf in jax.tree.leaves(params)}, model(params, jnp.ones((2, 4))).dtype
    ({'float32'}, dtype('float32'))
    """
    if not callable(layer):
        raise TypeError(
            f"mixed takes a layer and gives one, got {describe(layer) or repr(layer)}: write "
            'fn.mixed(fn.dense)(p["name"], x, 10), or fn.Model(fn.mixed(net), ...)'
        )
    wanted = _checked(dtype)

    def computed(p: Scope, *args: Any, **settings: Any) -> Any:
        params, state, key, inside = p.block(stacked=False)
        q = inside(params, state, key)
        q.frame.dtype = wanted
        args, settings = q.frame.cast((args, settings))
        y = layer(q, *args, **settings)
        p.absorb(q.frame.updates, q.frame.activations)
        outer = p.frame.dtype or jnp.float32
        return jax.tree.map(lambda leaf: _back(leaf, outer), y)

    return cast(Layer, computed)


def _checked(dtype: DTypeLike) -> np.dtype:
    if (isinstance(dtype, str) and dtype not in DTYPES) or jnp.dtype(dtype).name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return jnp.dtype(dtype)


def _back(x: Any, dtype: DTypeLike) -> Any:
    floating = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(dtype) if floating else x
