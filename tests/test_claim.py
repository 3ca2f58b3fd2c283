"""A claim holds, or it is an error."""

import math

import numpy as np
import pytest

import funnet as fn


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [
        (0.5, {"at_least": 0.5}, True),
        (0.49, {"at_least": 0.5}, False),
        (3, {"at_most": 3}, True),
        (np.float32(3.1), {"at_most": 3}, False),
        (2, {"at_least": 1, "at_most": 3}, True),
        (math.nan, {"at_least": 0}, False),
        (math.nan, {"at_most": 0}, False),
    ],
)
def test_a_claim_holds_or_is_an_error(value, bounds, holds, capsys):
    if holds:
        fn.claim("it", value, **bounds)
        assert f"it: {value:g}, claimed at" in capsys.readouterr().out
    else:
        with pytest.raises(AssertionError, match=r"it: .*, claimed at"):
            fn.claim("it", value, **bounds)


def test_a_claim_without_a_bound_claims_nothing():
    with pytest.raises(ValueError, match="at_least"):
        fn.claim("it", 1.0)
