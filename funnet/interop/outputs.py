"""What every layer gives, ours and PyTorch's, and how far the two are apart."""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.describe import is_array
from funnet.frame import Place
from funnet.interop.tensors import value
from funnet.select import turned

Placed = Mapping[str, tuple[Place, tuple[int, ...]]]


def places_of(model: Any, inputs: tuple) -> Placed:
    """All layers by dotted path, those of a repeat once for each turn, with the turn's indices.

    The whole, at the path "", is there even where it is no layer but a lift.
    """
    found: dict[str, tuple[Place, tuple[int, ...]]] = {"": (Place((), "", ()), ())}
    for place in model.trace(*inputs).places.values():
        for indices in itertools.product(*(range(turn.count) for turn in place.turns)):
            found[turned(place.path, place.turns, map(str, indices))] = (place, indices)
    return found


def run_ours(
    model: Any, params: Any, state: Any, inputs: tuple, places: Placed, train: bool
) -> dict[str, list[Any]]:
    """The outputs of some layers, a list of calls for each."""
    inner = {name: found for name, found in places.items() if name}
    taps = dict.fromkeys(".".join(place.path) for place, _ in inner.values())
    whole, taken = model.capture(params, state, *inputs, taps=taps, train=train)
    found = {"": [whole]}
    for name, (place, indices) in inner.items():
        output = taken[".".join(place.path)]
        once = jax.tree.structure(output) == jax.tree.structure(place.output)
        calls = [output] if once else output
        found[name] = [jax.tree.map(lambda x, i=indices: x[i], call) for call in calls]
    return found


def run_theirs(
    module: Any, paths: Collection[str], inputs: tuple, layout: Callable[..., Any], train: bool
) -> list[tuple[str, Any]]:
    """The outputs of some modules, call by call, in the order in which they finish."""
    torch = torch_of(module)
    given = layout(*(np.asarray(x) if is_array(x) else x for x in inputs))
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    tensors = [_tensor(torch, x, device) for x in (given if isinstance(given, tuple) else (given,))]
    taken = []

    def hook(path: str) -> Callable[..., None]:
        return lambda inner, _, output: taken.append((path, _arrays(torch, inner, output)))

    with _as_it_was(torch, module, train), contextlib.ExitStack() as hooks:
        for path in paths:
            handle = module.get_submodule(path).register_forward_hook(hook(path))
            hooks.callback(handle.remove)
        module(*tensors)
    return taken


def channels_first(*inputs: Any) -> tuple[Any, ...]:
    """Images and volumes (N, *spatial, C) as (N, C, *spatial), the rest as it is."""
    return tuple(np.moveaxis(x, -1, 1) if np.ndim(x) > 3 else x for x in inputs)


def distance(ours: Any, theirs: list[np.ndarray]) -> tuple[float, str]:
    """The largest difference over the largest element of theirs, and a note if shapes differ.

    Where one side has more arrays than the other, the first of each are compared.
    """
    leaves = [np.asarray(x) for x in jax.tree.leaves(ours)]
    if not leaves or not theirs:
        return math.inf, "no arrays"
    count = len(leaves) if len(leaves) == len(theirs) else 1
    pairs = zip(leaves[:count], theirs[:count], strict=True)
    return max((_difference(x, y) for x, y in pairs), key=lambda found: found[0])


def _difference(x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    """The error of two arrays, `y` in that order of axes which comes nearest to `x`."""
    orders = [y] if y.ndim < 3 else [y, np.moveaxis(y, 1, -1), np.swapaxes(y, 0, 1)]
    errors = [_relative(x, other) for other in orders if other.shape == x.shape]
    return (min(errors), "") if errors else (math.inf, f"{x.shape}, PyTorch's {y.shape}")


def _relative(x: np.ndarray, y: np.ndarray) -> float:
    """NaN and infinities agree with their like alone."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, np.abs(x - y)).max()
    largest = np.abs(y, where=np.isfinite(y), out=np.zeros_like(y)).max()
    return float(apart / max(largest, np.finfo(np.float32).tiny)) if apart < math.inf else math.inf


def _arrays(torch: Any, module: Any, output: Any) -> list[np.ndarray]:
    """The tensors of an output as arrays of their own, for what comes next may write on them."""
    if isinstance(module, torch.nn.RNNBase):  # the states layer by layer, as ours are
        sequence, states = output
        states = states if isinstance(states, tuple) else (states,)
        output = [sequence, *zip(*states, strict=True)]
    leaves = jax.tree.leaves(dict(output) if isinstance(output, Mapping) else output)
    return [value("an output", x).copy() for x in leaves if isinstance(x, torch.Tensor)]


def _tensor(torch: Any, x: Any, device: Any) -> Any:
    """An array as a tensor; tensors and settings are as they were."""
    if not isinstance(x, np.ndarray):
        return x.to(device) if isinstance(x, torch.Tensor) else x
    half = x.dtype == jnp.bfloat16
    tensor = torch.from_numpy(np.array(x, np.float32 if half else x.dtype, order="C"))
    return (tensor.bfloat16() if half else tensor).to(device)


@contextlib.contextmanager
def _as_it_was(torch: Any, module: Any, train: bool) -> Iterator[None]:
    """Trains or does not, without gradients, and puts back modes, buffers and random numbers."""
    modes = {inner: inner.training for inner in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.train(train)
            yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode
        with torch.no_grad():
            for buffer, old in buffers.items():
                buffer.copy_(old)


def torch_of(module: Any) -> Any:
    """PyTorch, which the module is of.

    Raises:
        ImportError: if it is not installed.
        TypeError: if the module is none.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("twin runs a PyTorch module: pip install 'funnet[torch]'") from error
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    return torch
