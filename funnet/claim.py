"""What a script claims of itself, checked when it is run."""

import math


def claim(
    name: str, value: float, *, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    """Prints whether a measured number is what is claimed of it.

    Args:
        name: what was measured, with its unit.
        value: the number.
        at_least: the least that is claimed.
        at_most: the most that is claimed.

    Raises:
        AssertionError: if it is not, or is NaN.

    >>> claim("accuracy", 0.991, at_least=0.99)
    accuracy: 0.991, claimed at least 0.99
    """
    bounds = {"at least": at_least, "at most": at_most}
    told = " and ".join(f"{word} {x:g}" for word, x in bounds.items() if math.isfinite(x))
    if not told:
        raise ValueError("give claim at_least, at_most or both")
    text = f"{name}: {float(value):.6g}, claimed {told}"
    if not at_least <= value <= at_most:  # NaN is no value to claim
        raise AssertionError(text)
    print(text)
