"""Convolutions and transposed ones, with their gradients, beside PyTorch's."""

import numpy as np
import pytest
from against_torch import agree

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def drawn(seed):
    """Axes, settings that both layers share, channels, and the arrays without x."""
    rng = np.random.default_rng(seed)
    axes = seed % 3 + 1

    def each(low, high):
        return tuple(int(n) for n in rng.integers(low, high, axes))

    groups = int(rng.integers(2, 4)) if seed % 4 == 0 else 1
    channels, features = (int(rng.integers(1, 4)) * groups for _ in range(2))
    if seed % 8 == 4:
        groups = features = channels  # depthwise
    window, stride, dilation, padding = each(1, 5), each(1, 4), each(1, 3), each(0, 3)
    sizes = (1, *each(1, 6)[1:]) if seed % 5 == 0 else each(1, 6)
    shared = {"stride": stride, "dilation": dilation, "groups": groups}
    kernel = rng.normal(size=(*window, channels // groups, features)).astype(np.float32)
    arrays = {"kernel": kernel, "bias": rng.normal(size=features).astype(np.float32)}
    return rng, axes, sizes, padding, shared, arrays


def images(rng, sizes, shared, arrays):
    channels = arrays["kernel"].shape[-2] * shared["groups"]
    return rng.normal(size=(int(rng.integers(1, 4)), *sizes, channels)).astype(np.float32)


def layer(function, shared, padding):
    def call(a):
        features, window = a["kernel"].shape[-1], a["kernel"].shape[:-2]
        model = fn.Model(function, features=features, kernel_size=window, padding=padding, **shared)
        return model({"kernel": a["kernel"], "bias": a["bias"]}, a["x"])

    return call


@pytest.mark.parametrize("seed", range(40))
def test_conv_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    rng, axes, sizes, padding, shared, arrays = drawn(seed)
    reach = (np.array(arrays["kernel"].shape[:axes]) - 1) * shared["dilation"] + 1
    arrays["x"] = images(rng, np.maximum(sizes, reach - 2 * np.array(padding)), shared, arrays)

    def theirs(a):
        function = getattr(torch.nn.functional, f"conv{axes}d")
        kernel = a["kernel"].movedim((-1, -2), (0, 1))
        y = function(a["x"].movedim(-1, 1), kernel, a["bias"], padding=padding, **shared)
        return y.movedim(1, -1)

    agree(layer(fn.conv, shared, padding), theirs, arrays)


def ungrouped(kernel, groups):
    """(*window, in / groups, out) as PyTorch has it, (in, out / groups, *window)."""
    *window, channels, features = kernel.shape
    kernel = kernel.reshape(*window, channels, groups, features // groups)
    kernel = kernel.movedim((-2, -3, -1), (0, 1, 2))
    return kernel.reshape(groups * channels, features // groups, *window)


@pytest.mark.parametrize("seed", range(60))
def test_conv_transpose_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    rng, axes, sizes, padding, shared, arrays = drawn(seed)
    window, stride, dilation = arrays["kernel"].shape[:axes], shared["stride"], shared["dilation"]
    room = rng.integers(0, np.maximum(stride, dilation))
    whole = (np.array(sizes) - 1) * stride + (np.array(window) - 1) * dilation + 1
    padding = np.minimum(padding, (whole + room - 1) // 2)
    arrays["x"] = images(rng, sizes, shared, arrays)

    def theirs(a):
        function = getattr(torch.nn.functional, f"conv_transpose{axes}d")
        kernel = ungrouped(a["kernel"], shared["groups"]).contiguous()
        more = {"padding": padding.tolist(), "output_padding": room.tolist(), **shared}
        return function(a["x"].movedim(-1, 1), kernel, a["bias"], **more).movedim(1, -1)

    pairs = np.stack([padding, padding - room], -1).tolist()
    agree(layer(fn.conv_transpose, shared, pairs), theirs, arrays)


def test_conv_transpose_takes_an_int_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(2, 5, 4, 3)).astype(np.float32),
        "kernel": rng.normal(size=(4, 4, 3, 2)).astype(np.float32),
        "bias": rng.normal(size=2).astype(np.float32),
    }

    def theirs(a):
        kernel = a["kernel"].movedim((-2, -1), (0, 1))
        y = torch.nn.functional.conv_transpose2d(
            a["x"].movedim(-1, 1), kernel, a["bias"], stride=2, padding=1
        )
        return y.movedim(1, -1)

    agree(layer(fn.conv_transpose, {"stride": 2}, 1), theirs, arrays)
