"""Tensors as parameters, element by element, and back to the bit."""

import numpy as np
import pytest

from funnet.interop import conversions
from funnet.interop.conversions import CONV, DENSE, SCALES, SUM, TRANSPOSED, flattened


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_dense_kernel_is_the_weight_transposed():
    weight = draws(5, 3)
    np.testing.assert_array_equal(DENSE.ours([weight], [(3, 5)])[0], weight.T)


def test_queries_keys_and_values_stand_side_by_side_in_this_order():
    q, k, v = draws(4, 3, seed=1), draws(2, 3, seed=2), draws(2, 3, seed=3)
    (kernel,) = DENSE.ours([q, k, v], [(3, 8)])
    np.testing.assert_array_equal(kernel, np.concatenate([q.T, k.T, v.T], 1))


def test_one_tensor_is_cut_where_ours_end():
    weight, bias = draws(6, 3), draws(6)
    query, key_value = DENSE.ours([weight], [(3, 2), (3, 4)])
    np.testing.assert_array_equal(query, weight[:2].T)
    np.testing.assert_array_equal(key_value, weight[2:].T)
    np.testing.assert_array_equal(DENSE.ours([bias], [(2,), (4,)])[1], bias[2:])


@pytest.mark.parametrize("window", [(3,), (2, 3), (2, 1, 3)])
def test_a_convolution_has_its_window_first_and_its_features_last(window):
    weight = draws(5, 4, *window)
    (kernel,) = CONV.ours([weight], [(*window, 4, 5)])
    assert kernel.shape == (*window, 4, 5)
    for at in np.ndindex(*window):
        np.testing.assert_array_equal(kernel[at], weight[:, :, *at].T)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("window", [(3,), (2, 3)])
def test_a_transposed_convolution_has_its_groups_among_its_features(window, groups):
    channels, features = 2, 4  # of a group
    weight = draws(groups * channels, features, *window)
    shape = (*window, channels, groups * features)
    (kernel,) = TRANSPOSED.ours([weight], [shape])
    assert kernel.shape == shape
    for g, i, o in np.ndindex(groups, channels, features):
        ours, theirs = kernel[..., i, g * features + o], weight[g * channels + i, o]
        np.testing.assert_array_equal(ours, theirs)


def test_rows_after_a_flattening_are_channels_last():
    weight, features = draws(2, 3 * 4 * 5), (3, 4, 5)
    (kernel,) = flattened(features).ours([weight], [(60, 2)])
    theirs = weight.reshape(2, 3, 4, 5)
    ours = kernel.reshape(4, 5, 3, 2)
    for c, h, w in np.ndindex(features):
        np.testing.assert_array_equal(ours[h, w, c], theirs[:, c, h, w])


def test_both_biases_of_an_lstm_are_added():
    np.testing.assert_array_equal(
        SUM.ours([np.float32([1, 2]), np.float32([3, -2])], [()])[0], [4, 0]
    )


def test_the_second_summand_changes_no_bit():
    bias = np.float32([1, -0.0, 0.0, np.inf, -np.inf, 1e-45, np.nan])
    back = SUM.ours(SUM.theirs([bias], [(7,), (7,)]), [(7,)])[0]
    assert back.tobytes() == bias.tobytes()
    assert not SUM.theirs([bias], [(7,), (7,)])[1].any()


def test_half_precision_biases_are_added_in_single():
    a, b = np.float16([2048]), np.float16([1])
    assert SUM.ours([a, b], [(1,)])[0].tolist() == [2049.0]


def test_norms_are_along_the_features():
    assert SCALES["conv"].ours([draws(4, 1, 1)], [(4,)])[0].shape == (4,)
    assert SCALES["conv_transpose"].ours([draws(1, 4, 1)], [(4,)])[0].shape == (4,)
    with pytest.raises(ValueError, match="squeeze"):
        SCALES["conv_transpose"].ours([draws(4, 1, 1)], [(4,)])


# conversion, PyTorch's shapes, ours
PAIRS = {
    "dense": (DENSE, [(5, 3)], [(3, 5)]),
    "joined": (DENSE, [(4, 3), (2, 3), (2, 3)], [(3, 8)]),
    "cut": (DENSE, [(6, 3)], [(3, 2), (3, 4)]),
    "recut": (DENSE, [(2, 3), (4, 3)], [(3, 4), (3, 2)]),
    "no rows": (DENSE, [(5, 0)], [(0, 5)]),
    "conv": (CONV, [(5, 4, 2, 3)], [(2, 3, 4, 5)]),
    "transposed": (TRANSPOSED, [(6, 4, 3)], [(3, 6, 4)]),
    "grouped": (TRANSPOSED, [(6, 4, 3, 1)], [(3, 1, 2, 12)]),
    "flattened": (flattened((3, 4)), [(5, 12)], [(12, 5)]),
    "scales": (SCALES["dense"], [(5, 1)], [(5,)]),
    "transposed scales": (SCALES["conv_transpose"], [(1, 5, 1)], [(5,)]),
    "same": (conversions.SAME, [(2, 3)], [(2, 3)]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back_is_the_same(name):
    conversion, theirs, ours = PAIRS[name]
    tensors = [draws(*shape, seed=i) for i, shape in enumerate(theirs)]
    parameters = conversion.ours(tensors, ours)
    assert [x.shape for x in parameters] == ours
    for found, tensor in zip(conversion.theirs(parameters, theirs), tensors, strict=True):
        np.testing.assert_array_equal(found, tensor)
