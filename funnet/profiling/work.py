"""Floating-point operations of a traced program, by layer.

XLA's own analysis of a compiled program counts the body of a loop once, however often it turns.
Here the traced program is counted, by XLA's rules for products and convolutions, a scan's body as
often as it turns. Each number that arithmetic or a reduction gives or takes in is one operation;
moving numbers about, comparing integers and drawing random bits is none.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

from funnet.frame import tags_of
from funnet.profiling.places import Chain, extended


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names("""
broadcast_in_dim bitcast_convert_type concatenate convert_element_type copy copy_p device_put
dynamic_slice dynamic_update_slice expand_dims gather iota optimization_barrier pad
random_bits random_fold_in random_seed random_split random_unwrap random_wrap reduce_precision
reshape rev select_n slice split squeeze stop_gradient transpose scatter empty pvary
""")
REDUCTIONS = _names("""
argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_max reduce_min reduce_prod
reduce_sum sort top_k
""")
SCATTERS = _names("scatter-add scatter-mul scatter-max scatter-min scatter_add scatter_mul")
WINDOWS = _names("""
reduce_window reduce_window_max reduce_window_min reduce_window_sum select_and_scatter
select_and_scatter_add select_and_gather_add
""")
OPAQUE = _names("""
pallas_call ffi_call custom_call pure_callback io_callback cholesky lu qr eig eigh svd schur
triangular_solve tridiagonal tridiagonal_solve householder_product geqrf fft
""")


@dataclasses.dataclass(frozen=True)
class Work:
    """The operations of one equation, in all turns of the loops around it."""

    chain: Chain
    flops: int = 0
    product: str = ""  # the dtype of a product or convolution
    untold: str = ""  # the name of what cannot be counted


@dataclasses.dataclass(frozen=True)
class Tally:
    """The work of a program: by layer, by the dtype of its products, and what was not counted."""

    layers: Counter[Chain]
    products: Counter[str]
    untold: tuple[str, ...]

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return self.layers.total()

    @property
    def dtype(self) -> str:
        """The dtype in which most of the products are computed."""
        return max(self.products, key=lambda name: self.products[name], default="float32")


def tally(jaxpr: Any, platform: str) -> Tally:
    """The work of a jaxpr on a platform, every layer in the order of its first operation."""
    layers, products, untold = Counter(), Counter(), {}
    for work in _works(jaxpr, platform, (), 1):
        layers[work.chain] += work.flops
        if work.product:
            products[work.product] += work.flops
        if work.untold:
            untold[work.untold] = None
    return Tally(layers, products, tuple(untold))


def _works(jaxpr: Any, platform: str, outer: Chain, times: int) -> Iterator[Work]:
    for eqn in _used(jaxpr):
        name, params, chain = eqn.primitive.name, eqn.params, extended(outer, tags_of(eqn))
        if name in ("dot_general", "conv_general_dilated"):
            count = _dot(eqn) if name == "dot_general" else _convolution(eqn)
            yield Work(chain, times * count, product=str(eqn.invars[0].aval.dtype))
        elif name == "cond":
            branches = _branches(params, platform)
            costs = [list(_works(b.jaxpr, platform, chain, times)) for b in branches]
            yield from max(costs, key=lambda works: sum(work.flops for work in works))
        elif name in OPAQUE:
            yield Work(chain, untold=name)
        elif _has_bodies(name, params):
            yield Work(chain, untold="while" if name == "while" else "")
            turns = times * _turns(name, params)
            for inner in jaxprs_in_params(params):
                yield from _works(inner, platform, chain, turns)
        else:
            yield Work(chain, times * _elements(name, eqn))


def _used(jaxpr: Any) -> list[Any]:
    """The equations whose values are used: the compiler leaves out the others."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    used = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
            used.append(eqn)
    return used[::-1]


def _branches(params: dict[str, Any], platform: str) -> list[Any]:
    """The branches that may run; of those for several platforms, the one for this."""
    branches, platforms = params["branches"], params.get("branches_platforms")
    if platforms is None:
        return list(branches)
    fits = (b for b, p in zip(branches, platforms, strict=True) if p is None or platform in p)
    return [next(fits)]


def _has_bodies(name: str, params: dict[str, Any]) -> bool:
    rules = (REDUCTIONS, SCATTERS, WINDOWS)
    return not any(name in rule for rule in rules) and any(True for _ in jaxprs_in_params(params))


def _turns(name: str, params: dict[str, Any]) -> int:
    """How often a body is computed; on a mesh, by all its devices."""
    if name == "shard_map":
        return params["mesh"].size
    return params["length"] if name == "scan" else 1


def _elements(name: str, eqn: Any) -> int:
    """The operations of an equation that is no product: one for each number."""
    given, made = ([v.aval for v in variables] for variables in (eqn.invars, eqn.outvars))
    if name in MOVES or not any(map(_floating, [*given, *made])):
        return 0
    if name in REDUCTIONS:
        return sum(_size(x) for x in given if _floating(x))
    if name in SCATTERS:
        return _size(given[2])
    if name in WINDOWS:
        window = math.prod(eqn.params.get("window_dimensions", ()))
        return window * (_size(given[0]) if "scatter" in name else _size(made[0]))
    return sum(map(_size, made))


def _floating(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", np.int32), jnp.inexact)


def _size(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ()))


def _dot(eqn: Any) -> int:
    """Two operations for each of the factors behind each number."""
    lhs = eqn.invars[0].aval.shape
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * _size(eqn.outvars[0].aval) * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    """As XLA counts: two operations for each factor, but none where a window is in the padding."""
    lhs, rhs = (v.aval.shape for v in eqn.invars)
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    images = lhs[numbers.lhs_spec[0]] // params["batch_group_count"]
    features, depth = (rhs[axis] for axis in numbers.rhs_spec[:2])
    met = 1
    for i, (before, _) in enumerate(params["padding"]):
        out = eqn.outvars[0].aval.shape[numbers.out_spec[2 + i]]
        begins = np.arange(out) * params["window_strides"][i] - before
        taps = np.arange(rhs[numbers.rhs_spec[2 + i]]) * params["rhs_dilation"][i]
        at, gap = begins[:, None] + taps, params["lhs_dilation"][i]
        last = (lhs[numbers.lhs_spec[2 + i]] - 1) * gap
        met *= int(((at >= 0) & (at <= last) & (at % gap == 0)).sum())
    return 2 * images * features * depth * met
