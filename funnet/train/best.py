"""Which validation was the best, and for how long none has been better."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from funnet.train.totals import spelt


@dataclasses.dataclass(frozen=True)
class Best:
    """The number of a validation that is to become as high or as low as can be."""

    name: str
    sign: int

    def value(self, numbers: Mapping[str, Any]) -> float:
        """The number, signed so that more is better.

        Raises:
            ValueError: if the validation gave no such number; lists what it gave.
        """
        value = numbers.get(self.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"best watches {self.name!r}, and validate gave {', '.join(numbers) or 'nothing'}"
            )
        return self.sign * float(value)


def highest(name: str) -> Best:
    """For `fit(..., best=...)`: the validation whose number `name` is highest is the best.

    >>> highest("accuracy").value({"accuracy": 0.5})
    0.5
    """
    return Best(name, 1)


def lowest(name: str) -> Best:
    """For `fit(..., best=...)`: the validation whose number `name` is lowest is the best.

    >>> lowest("loss").value({"loss": 0.5})
    -0.5
    """
    return Best(name, -1)


@dataclasses.dataclass
class Progress:
    """What a training has to remember beside its run; JSON holds it.

    `validated` is the last step that was validated, `metrics` what that gave; `best` the step and
    the signed value of the best validation, `stale` how many came since.
    """

    validated: int = -1
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] | None = None
    stale: int = 0

    def validation(self, step: int, numbers: dict[str, Any], best: Best | None) -> bool:
        """Takes in a validation; whether it is the best so far."""
        self.validated, self.metrics = step, spelt(numbers)
        if best is None:
            return False
        value = best.value(numbers)
        better = math.isfinite(value) and (self.best is None or value > self.best["value"])
        self.best = {"step": step, "value": value} if better else self.best
        self.stale = 0 if better else self.stale + 1
        return better
