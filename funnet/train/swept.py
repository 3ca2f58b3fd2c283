"""What a sweep has found: all its runs, what each was told, and how each did."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from funnet.train.best import Best, lowest
from funnet.train.run import Run


@dataclasses.dataclass(frozen=True)
class Swept:
    """The runs of `fn.sweep`; printed, it is a table of them, the best first.

    Attributes:
        runs: one run whose leaves have a leading axis of runs (R, ...).
        settings: by name, what each run was told, (R,).
        steps: the steps behind each line of the metrics, (L,).
        metrics: by name, the mean over the steps since the line before, (R, L, ...) float64.
        refused: how many steps of each run were refused, (R,) int.
        validation: by name, what `validate` gave of each run, (R, ...); empty without one.
        how: `"vmap"` or `"map"`, the way in which the runs were trained.
        why: what that was chosen for.
    """

    runs: Run
    settings: dict[str, np.ndarray]
    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    refused: np.ndarray
    validation: dict[str, np.ndarray]
    how: str
    why: str

    def __len__(self) -> int:
        return len(self.refused)

    def run(self, i: int) -> Run:
        """The `i`th run, as `fit` would have returned it; -1 is the last one.

        Raises:
            IndexError: if there is none.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"run is {i}, expected one of the {len(self)} runs, from 0 on")
        return jax.tree.map(lambda x: x[i], self.runs)

    def results(self) -> dict[str, np.ndarray]:
        """One number for each run by name, (R,): the last line of the metrics, and validation.

        Where both have a name, it is the validation's. What is no single number is left out.
        """
        last = {name: x[:, -1] for name, x in self.metrics.items() if x.shape[1]}
        return {name: x for name, x in {**last, **self.validation}.items() if x.ndim == 1}

    def order(self, best: Best | None = None) -> np.ndarray:
        """The runs' numbers, (R,) int, the best first; those whose result is NaN come last.

        Args:
            best: `fn.highest(name)` or `fn.lowest(name)` of the results; by default the lowest
                loss.

        Raises:
            ValueError: if there is no such result; lists those that there are.
        """
        best, results = best or lowest("loss"), self.results()
        if not isinstance(best, Best) or best.name not in results:
            known = ", ".join(results) or "nothing"
            raise ValueError(f"best is {best!r}, expected fn.highest or fn.lowest of {known}")
        return np.argsort(-best.sign * results[best.name].astype(float), kind="stable")

    def table(self, best: Best | None = None) -> str:
        """Settings and results, a line a run, the best first; see `order`."""
        columns = {**self.settings, **self.results(), "refused": self.refused}
        names = ["run", *columns]
        lines = [names] + [
            [str(i), *(_brief(x[i]) for x in columns.values())] for i in self.order(best).tolist()
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
        rows = [zip(line, widths, strict=True) for line in lines]
        return "\n".join("  ".join(text.rjust(width) for text, width in row) for row in rows)

    def __str__(self) -> str:
        results = self.results()
        best = None if "loss" in results else lowest(next(iter(results), "refused"))
        head = f"{len(self)} runs, trained by {self.how}: {self.why}"
        return f"{head}\n{self.table(best)}" if results else head


def _brief(x: Any) -> str:
    return f"{x:.4g}" if isinstance(x, float | np.floating) else str(x)


def stacked(found: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers of several runs as an array for each name.

    Raises:
        ValueError: if the runs gave different names.
    """
    names = list(found[0]) if found else []
    for numbers in found:
        if list(numbers) != names:
            raise ValueError(
                f"validate must give the same numbers of every run, it gave {names} of the first "
                f"and {list(numbers)} of another"
            )
    return {name: np.stack([np.asarray(numbers[name]) for numbers in found]) for name in names}
