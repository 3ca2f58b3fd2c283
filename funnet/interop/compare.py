"""A model beside a PyTorch module: the same inputs, and every layer's output compared."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from funnet.interop.names import Names, renamer
from funnet.interop.outputs import (
    channels_first,
    distance,
    places_of,
    run_ours,
    run_theirs,
    torch_of,
)

WHOLE = "."


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer and a module at one call: how far their outputs are apart, and why, if plain."""

    path: str
    module: str
    error: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Twin:
    """What `twin` found; `print` shows it as a table.

    `pairs` are in the order in which PyTorch's modules finish. `layers` and `modules` are the
    paths that have no partner, or none that was called. The whole is called ".".
    """

    pairs: tuple[Pair, ...]
    layers: tuple[str, ...]
    modules: tuple[str, ...]
    tolerance: float

    @property
    def first(self) -> str | None:
        """The path of the first layer that diverges; `None` if all agree."""
        return next((pair.path for pair in self.pairs if self._apart(pair)), None)

    @property
    def errors(self) -> dict[str, float]:
        """The error of each layer by path, the largest of its calls."""
        return {p.path: max(q.error for q in self.pairs if q.path == p.path) for p in self.pairs}

    def __str__(self) -> str:
        head = ("path", "PyTorch", "error", "")
        cells = [
            (p.path, p.module, f"{p.error:.1e}", "diverges " * self._apart(p) + p.note)
            for p in self.pairs
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        rows = [[c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in (head, *cells)]
        lines = ["  ".join(row).rstrip() for row in rows]
        for what, names in (("layers", self.layers), ("modules", self.modules)):
            lines += [f"{what} without a partner: {', '.join(names)}"] if names else []
        first = "all agree" if self.first is None else f"the first to diverge is {self.first!r}"
        return "\n".join([*lines, f"{first}, at a tolerance of {self.tolerance:.0e}"])

    __repr__ = __str__

    def _apart(self, pair: Pair) -> bool:
        return not pair.error <= self.tolerance


def twin(
    model: Any,
    params: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    module: Any,
    *inputs: Any,
    names: Names = None,
    tolerance: float = 1e-4,
    train: bool = False,
    layout: Callable[..., Any] | None = None,
) -> Twin:
    """Runs a model and a PyTorch module side by side, and finds the first layer that diverges.

    A layer and a module are partners if their paths are the same after renaming, the turns of an
    `fn.repeat` by index. Their error is the largest difference over the largest element of
    PyTorch's output, whose channels or batch are first brought to where ours are. Of a recurrent
    layer outputs and last states are compared; where one side gives more arrays than the other,
    the first of each. A shared layer is compared call by call, with all modules of its path.

    Args:
        model: the model.
        params: its parameters, such as `from_torch` gives.
        state: its state, or `None`.
        module: a `torch.nn.Module`; it is left as it was.
        *inputs: the model's inputs.
        names: PyTorch's paths as ours, as in `from_torch`.
        tolerance: the error up to which a pair agrees.
        train: whether both train. Dropout draws other numbers in each, so it must be at rate 0.
        layout: a function of the inputs, as NumPy arrays, to a tuple of the module's. Without it
            images and volumes (N, *spatial, C) become (N, C, *spatial), and all else, (N, T, C)
            too, stays as it is.

    Returns:
        A `Twin`: `print` shows a table in order of execution, `.first` is the path of the first
        layer that diverges, `.errors` holds all by path.

    Raises:
        ImportError: if PyTorch is not installed.
        TypeError: if `module` is no module of PyTorch's.
        ValueError: if a pattern of `names` matches nothing.

    >>> import funnet as fn, jax.numpy as jnp, torch
    >>> module, model, x = torch.nn.Linear(3, 2), fn.Model(fn.dense, features=2), jnp.ones((4, 3))
    >>> params, state = fn.interop.from_torch(model, module.state_dict(), like=x)
    >>> print(fn.interop.twin(model, params, state, module, x).first)
    None
    """
    torch_of(module)
    places = places_of(model, inputs)
    partners = _partners(module, names)
    shared = {path: name for path, name in partners.items() if name is not None and name in places}
    ours = run_ours(model, params, state, inputs, {n: places[n] for n in shared.values()}, train)
    theirs = run_theirs(module, list(shared), inputs, layout or channels_first, train)
    pairs = tuple(_pairs(shared, ours, theirs))
    met = {(pair.path, pair.module) for pair in pairs}
    layers, modules = {path for path, _ in met}, {path for _, path in met}
    return Twin(
        pairs,
        tuple(name for name in map(_shown, places) if name not in layers),
        tuple(path for path in map(_shown, partners) if path not in modules),
        tolerance,
    )


def _partners(module: Any, names: Names) -> dict[str, str | None]:
    """All modules by path, with the layer that each would be; the whole is the whole."""
    modules = [path for path, _ in module.named_modules()]
    rename = renamer(names, [*modules, *module.state_dict()])
    return {path: rename(path) if path else path for path in modules}


def _pairs(
    partners: Mapping[str, str], ours: dict[str, list[Any]], theirs: list[tuple[str, Any]]
) -> Iterator[Pair]:
    """Every call of a module beside the same call of its layer, as many as both have."""
    called, met = Counter(partners[path] for path, _ in theirs), Counter()
    for path, output in theirs:
        name = partners[path]
        calls, turn = ours[name], met[name]
        met[name] += 1
        if turn < len(calls):
            error, note = distance(calls[turn], output)
            if len(calls) != called[name]:
                note = note or f"called {len(calls)} times, PyTorch's {called[name]} times"
            yield Pair(_shown(name), _shown(path), error, note)


def _shown(path: str) -> str:
    return path or WHOLE
