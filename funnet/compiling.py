"""Compiling for the CPU in less time, where that costs no speed.

Settings of XLA:CPU, measured: without its fusion emitters a training step compiles in half the time
and runs as fast; at optimization level 1 the drawing of parameters compiles six times faster, runs
as fast and draws the same bits; not cut into parts for threads that are not there, or that would
have little to do, a small program compiles in a tenth of a second less. They are given to the
compiler with our own programs only; other platforms, and whatever else the process compiles, keep
their settings.

With more than one processor, convolutions go to Eigen, which spreads them over all of them, where
XLA's newer library would keep to one (measured on two: a small CNN's steps take 0.8 of the time, a
LeNet's 0.7); on a single one the newer library is the faster.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

STEP = {"xla_cpu_use_fusion_emitters": False}
SPREAD = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"  # what it is for by default, but for convolutions
}
ALONE = {"xla_cpu_parallel_codegen_split_count": 1}
DRAW = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1, **ALONE}


def quick_jit(options: dict[str, Any], **how: Any) -> Callable[[Callable], "QuickJit"]:
    """A decorator: `jax.jit(function, **how)` with compiler options where they apply."""
    return lambda function: QuickJit(function, options, how)


class QuickJit:
    """A jitted function; see `quick_jit`. Inside another jitted program it is a plain one."""

    def __init__(self, function: Callable, options: dict[str, Any], how: dict[str, Any]):
        self.function, self.options, self.how = function, options, how
        self.plain = jax.jit(function, **how)

    @functools.cached_property
    def quick(self) -> Any:
        """The function jitted with the options, once the platform is known."""
        options = dict(_accepted(tuple({**self.options, **_processors()}.items())))
        return jax.jit(self.function, compiler_options=options or None, **self.how)

    def __call__(self, *args: Any) -> Any:
        """Calls the jitted function."""
        here = jax.lax.full((), 0)  # a tracer inside another program, whatever its arguments
        inside = any(isinstance(leaf, Tracer) for leaf in (here, *jax.tree.leaves(args)))
        return (self.plain if inside else self.quick)(*args)


def _processors() -> dict[str, Any]:
    """What lets a program use all processors, where there are several, or keep to a single one."""
    every = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return SPREAD if len(every(0)) > 1 else ALONE


@functools.cache
def _accepted(options: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Those of the options that this version of XLA and this platform take."""
    if jax.default_backend() != "cpu":
        return ()
    return tuple(option for option in options if _taken(*option))


@functools.cache
def _taken(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except Exception:  # which one depends on the version
        return False
    return True
