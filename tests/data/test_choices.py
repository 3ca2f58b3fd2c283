"""Data is held out from the end, and a choice of data says what it took."""

import numpy as np
import pytest

import funnet as fn


def test_what_is_held_out_is_not_trained_on():
    data, _ = fn.data.digits()
    rest, held = fn.data.hold_out(data, 200)
    assert (len(rest["label"]), len(held["label"])) == (1237, 200)
    np.testing.assert_array_equal(np.concatenate([rest["image"], held["image"]]), data["image"])


@pytest.mark.parametrize("size", [1437, 5000, -3, 0])
def test_holding_out_all_or_none_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        fn.data.hold_out(fn.data.digits()[0], size)


@pytest.mark.parametrize("names", [("imagenet",), ("digits", "imagenet"), ("SOURCES",), ()])
def test_a_data_set_that_is_not_known_is_refused(names):
    with pytest.raises(ValueError, match="expected one of mnist"):
        fn.data.first_of(*names)
