"""One or several tensors of PyTorch's as one or several of ours, and back, bit for bit."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]
Arrays = list[np.ndarray]
Convert = Callable[[Arrays, Sequence[Shape]], Arrays]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Both ways, each from arrays and the shapes that are to come out."""

    words: str
    ours: Convert
    theirs: Convert

    def gives(self, weight: Shape, kernel: Shape) -> bool:
        """Whether a weight of one shape can become a kernel of another."""
        try:
            return self.ours([np.broadcast_to(np.float32(0), weight)], [kernel])[0].shape == kernel
        except (ValueError, IndexError):
            return False


def _cut(whole: np.ndarray, sizes: Sequence[int], axis: int) -> Arrays:
    return np.split(whole, np.cumsum(sizes)[:-1], axis)


def flattened(features: Shape) -> Conversion:
    """A dense kernel after a flattening of (C, *spatial) there, of (*spatial, C) here."""

    def ours(tensors: Arrays, _: Sequence[Shape]) -> Arrays:
        kernel = tensors[0].T
        rows = np.moveaxis(kernel.reshape(*features, kernel.shape[1]), 0, -2)
        return [rows.reshape(kernel.shape)]

    def theirs(parameters: Arrays, _: Sequence[Shape]) -> Arrays:
        kernel = parameters[0]
        rows = kernel.reshape(*features[1:], features[0], kernel.shape[1])
        return [np.moveaxis(rows, -2, 0).reshape(kernel.shape).T]

    return Conversion(f"as dense after features {features}, channels first,", ours, theirs)


def _transposed(tensors: Arrays, shapes: Sequence[Shape]) -> Arrays:
    """(in, out / groups, *window) to (*window, in / groups, out)."""
    weight, out = tensors[0], shapes[0][-1]
    groups = max(1, out // weight.shape[1])
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    kernel = np.moveaxis(split, (1, 0, 2), (-3, -2, -1))
    return [kernel.reshape(*weight.shape[2:], weight.shape[0] // groups, -1)]


def _transposed_back(parameters: Arrays, shapes: Sequence[Shape]) -> Arrays:
    kernel, part = parameters[0], shapes[0][1]
    *window, channels, out = kernel.shape
    split = kernel.reshape(*window, channels, out // part, part)
    weight = np.moveaxis(split, (-3, -2, -1), (1, 0, 2))
    return [weight.reshape(channels * (out // part), part, *window)]


def _scales(axis: int) -> Conversion:
    """PyTorch's norms of a weight, which keep all axes of it, each of size 1 but for one."""

    def ours(tensors: Arrays, _: Sequence[Shape]) -> Arrays:
        others = tuple(i for i in range(tensors[0].ndim) if i != axis)
        return [tensors[0].squeeze(others)]  # which refuses an axis that is not 1

    def theirs(parameters: Arrays, shapes: Sequence[Shape]) -> Arrays:
        rank = len(shapes[0])
        return [parameters[0].reshape([-1 if i == axis else 1 for i in range(rank)])]

    return Conversion(f"as scales along axis {axis}", ours, theirs)


def _sum(tensors: Arrays, _: Sequence[Shape]) -> Arrays:
    a, b = (x.astype(np.promote_types(x.dtype, np.float32)) for x in tensors)
    return [a + b]


def _summands(parameters: Arrays, _: Sequence[Shape]) -> Arrays:
    """The sum, and -0.0: the one number that leaves every other as it is when added."""
    return [parameters[0], np.negative(np.zeros_like(parameters[0]))]


SAME = Conversion("as it is", lambda xs, _: xs, lambda xs, _: xs)
SUM = Conversion("added up", _sum, _summands)
DENSE = Conversion(
    "transposed",
    lambda xs, shapes: _cut(np.concatenate([x.T for x in xs], -1), [s[-1] for s in shapes], -1),
    lambda xs, shapes: [x.T for x in _cut(np.concatenate(xs, -1), [s[0] for s in shapes], -1)],
)
CONV = Conversion(
    "as a convolution's kernel",
    lambda xs, _: [np.moveaxis(xs[0], (0, 1), (-1, -2))],
    lambda xs, _: [np.moveaxis(xs[0], (-1, -2), (0, 1))],
)
TRANSPOSED = Conversion("as a transposed convolution's kernel", _transposed, _transposed_back)

# Of a weight, and of its norms, by the kind of layer that it belongs to.
KERNELS = {"dense": DENSE, "conv": CONV, "conv_transpose": TRANSPOSED}
SCALES = {"dense": _scales(0), "conv": _scales(0), "conv_transpose": _scales(1)}
