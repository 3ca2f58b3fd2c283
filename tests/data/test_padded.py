"""Sequences of many lengths as one array."""

import numpy as np
import pytest

import funnet as fn


def test_rows_are_padded_to_the_longest_or_to_a_size():
    rows = [[3, 1, 4], [], [1, 5]]
    whole, lengths = fn.data.padded(rows)
    assert (whole.dtype, lengths.dtype) == (np.int32, np.int32)
    assert whole.tolist() == [[3, 1, 4], [0, 0, 0], [1, 5, 0]]
    assert lengths.tolist() == [3, 0, 2]
    assert fn.data.padded(rows, 4)[0].tolist() == [[3, 1, 4, 0], [0, 0, 0, 0], [1, 5, 0, 0]]


def test_texts_are_rows_too_as_bytes():
    whole, lengths = fn.data.padded(["naïve".encode(), b"a"])
    assert bytes(whole[0].tolist()).decode() == "naïve"
    assert lengths.tolist() == [6, 1]


def test_arrays_are_rows_too_and_what_comes_out_goes_into_buckets():
    rows = [np.arange(1, 1 + n) for n in (3, 9, 2, 8)]
    token, lengths = fn.data.padded(rows, 12)
    direct = fn.data.bucketed({"token": rows}, 2, boundaries=(3, 9))
    source = fn.data.bucketed(
        {"token": token, "lengths": lengths}, 2, boundaries=(3, 9), sequences="token"
    )
    for step in range(4):
        np.testing.assert_array_equal(source[step]["token"], direct[step]["token"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one, got none"):
        fn.data.padded([])
    with pytest.raises(ValueError, match=r"rows\[1\] has 3 elements, expected at most size=2"):
        fn.data.padded([[1], [1, 2, 3]], 2)
    with pytest.raises(ValueError, match="size is 0"):
        fn.data.padded([[]], 0)
    with pytest.raises(TypeError, match="sequences of integers, got float64"):
        fn.data.padded([[1.5]])
    with pytest.raises(TypeError, match="sequences of integers, got <U1"):
        fn.data.padded(["ab"])
