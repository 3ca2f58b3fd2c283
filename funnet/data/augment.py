"""Augmentation: pure functions of a key and a batch, to run on the device inside a training step.

A batch is a dict: `image` (N, H, W, C) of bytes or floats, `label` (N,), and `id` (N,) int32, the
examples' own numbers in the data set; whatever else is in it passes through. What happens to an
image depends on the key and on its own id alone, never on the images around it: a batch may be
split, reordered or spread over devices and every image comes out the same, bit for bit. (`mixup`
says what it excepts.) An example that is twice in a batch is therefore augmented alike; a new
step has a new key.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet import checks
from funnet.data.mixing import mix, symmetric_beta
from funnet.keys import checked_key
from funnet.layers import image
from funnet.layers.image import Channels

Batch = dict[str, jax.Array]
Augmentation = Callable[[jax.Array, Batch], Batch]


def chain(*functions: Augmentation) -> Augmentation:
    """One augmentation after another, each with a key of its own, folded from its position.

    Args:
        *functions: functions of `(key, batch)` that return a batch, first to last.

    Returns:
        A function of `(key, batch)`, such as `fn.classification(model, augment=...)` takes.

    Raises:
        TypeError: if one of them is no function.

    >>> augment = chain(crop(32, padding=4), flip(), normalise(0.5, 0.25))
    >>> batch = {"image": jnp.ones((8, 32, 32, 3), jnp.uint8), "id": jnp.arange(8)}
    >>> jax.jit(augment)(jax.random.key(0), batch)["image"].dtype
    dtype('float32')
    """
    for function in functions:
        if not callable(function):
            raise TypeError(f"chain takes functions of (key, batch), got {function!r}")

    def augment(key: jax.Array, batch: Batch) -> Batch:
        key = checked_key(key)
        for position, function in enumerate(functions):
            batch = function(jax.random.fold_in(key, position), batch)
        return batch

    return augment


def crop(height: int, width: int | None = None, *, padding: int = 0) -> Augmentation:
    """A random window of each image, once it has a border of zeros.

    Args:
        height: rows of the window, in pixels.
        width: its columns, by default as many.
        padding: pixels of border on each side; every window that fits is equally likely.

    Returns:
        A function of `(key, batch)`: `image` becomes (N, height, width, C), of its own dtype.

    Raises:
        TypeError, ValueError: if a setting is no integer, or out of range.
        ValueError: when called, if the window is larger than an image and its border.

    >>> batch = {"image": jnp.ones((2, 32, 32, 3)), "id": jnp.arange(2)}
    >>> crop(24, 28)(jax.random.key(0), batch)["image"].shape
    (2, 24, 28, 3)
    """
    rows = checks.count("height", height)
    columns = checks.count("width", height if width is None else width)
    padding = checks.count("padding", padding, least=0)
    return _each_image(2, lambda x, u: _window(x, u, rows, columns, padding))


def shift(pixels: int) -> Augmentation:
    """Each image moved by whole pixels along both axes; zeros come in.

    Args:
        pixels: the farthest along an axis; every integer in -pixels..pixels is equally likely.

    Returns:
        A function of `(key, batch)`; `image` keeps its shape and dtype.

    Raises:
        TypeError, ValueError: if `pixels` is no integer, or negative.

    >>> batch = {"image": jnp.ones((1, 1, 3, 1)), "id": jnp.asarray([7])}
    >>> shift(1)(jax.random.key(0), batch)["image"].ravel()
    Array([0., 1., 1.], dtype=float32)
    """
    pixels = checks.count("pixels", pixels, least=0)
    return _each_image(2, lambda x, u: _window(x, u, x.shape[0], x.shape[1], pixels))


def flip() -> Augmentation:
    """Left and right exchanged in half of the images.

    Returns:
        A function of `(key, batch)`; `image` keeps its shape and dtype.

    >>> batch = {"image": jnp.asarray([[[[1], [2]]]], jnp.uint8), "id": jnp.asarray([1])}
    >>> flip()(jax.random.key(0), batch)["image"].tolist()
    [[[[2], [1]]]]
    """
    return _each_image(1, lambda x, u: jnp.where(u[0] < 0.5, x[:, ::-1], x))


def alternating_flip(seed: int = 0) -> Augmentation:
    """Left and right exchanged in every second epoch: of half of the images in the even ones.

    However few the epochs, each image is seen both ways, which `flip` leaves to chance.

    Args:
        seed: of which half it is, whatever the key.

    Returns:
        A function of `(key, batch)` for batches that have `epoch`, integers (N,), beside `id`;
        `image` keeps its shape and dtype.

    Reference: Jordan 2024, https://arxiv.org/abs/2404.00498

    >>> batch = {"image": jnp.arange(2).reshape(1, 1, 2, 1) / 2, "id": jnp.asarray([7])}
    >>> seen = [{**batch, "epoch": jnp.asarray([e])} for e in range(4)]
    >>> [alternating_flip()(jax.random.key(0), b)["image"][0, 0, 0, 0].item() for b in seen]
    [0.5, 0.0, 0.5, 0.0]
    """
    checks.seed(seed)

    def augment(key: jax.Array, batch: Batch) -> Batch:
        x, first = _images(batch), _uniform(jax.random.key(seed), batch, 1)[:, 0] < 0.5
        odd = _one_each("epoch", batch, "the epoch in which it is seen") % 2 != 0
        turned = (first != odd)[:, None, None, None]
        return {**batch, "image": jnp.where(turned, x[:, :, ::-1], x)}

    return augment


def rotate(degrees: float) -> Augmentation:
    """Each image turned about its centre by a random angle; zeros come in.

    A pixel is interpolated bilinearly from the four around the place it comes from, which is
    rounded to 1/256 pixel; beyond the image all are zero.

    Args:
        degrees: the largest angle either way, 0 to 180; angles are uniform.

    Returns:
        A function of `(key, batch)`; `image` keeps its shape and dtype, bytes are rounded.

    Raises:
        ValueError: if `degrees` is out of range.

    >>> batch = {"image": jnp.ones((8, 28, 28, 1), jnp.uint8), "id": jnp.arange(8)}
    >>> rotate(15)(jax.random.key(0), batch)["image"].dtype
    dtype('uint8')
    """
    checks.within("degrees", degrees, 0, 180)
    most = math.radians(degrees)

    def augment(key: jax.Array, batch: Batch) -> Batch:
        x = _images(batch)
        # Before the loop, where XLA would fuse this into each of the four gathers: a third faster.
        bordered = _cut(jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 2), (1, 2), (0, 0))))
        turn = _each_image(1, lambda x, u: _turn(x, (2 * u[0] - 1) * most))
        y = turn(key, {**batch, "image": bordered})["image"]
        return {**batch, "image": _narrow(y, x.dtype)}

    return augment


def cutout(size: int) -> Augmentation:
    """A square of zeros in each image, about a random pixel and cut off at the image's edges.

    Args:
        size: side of the square, in pixels; an even one reaches a pixel farther up and left.

    Returns:
        A function of `(key, batch)`; `image` keeps its shape and dtype.

    Raises:
        TypeError, ValueError: if `size` is no integer, or below 1.

    Reference: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552

    >>> batch = {"image": jnp.ones((1, 8, 8, 1)), "id": jnp.asarray([3])}
    >>> int(cutout(3)(jax.random.key(0), batch)["image"].sum())
    55
    """
    size = checks.count("size", size)

    def cut(x: jax.Array, uniform: jax.Array) -> jax.Array:
        row, column = _integers(uniform, *x.shape[:2]) - size // 2
        rows, columns = (jnp.arange(length, dtype=jnp.int32) for length in x.shape[:2])
        inside = (rows >= row) & (rows < row + size)
        square = inside[:, None] & (columns >= column) & (columns < column + size)
        return jnp.where(square[..., None], jnp.zeros((), x.dtype), x)

    return _each_image(2, cut)


def mixup(alpha: float, classes: int) -> Augmentation:
    """Each image and its label mixed with another of the batch, `w x + (1 - w) x'`.

    The weight `w` is drawn from Beta(alpha, alpha) and follows the example's id. The partner is
    the one exception to what this module promises: it is the example in the same place of the
    batch in reverse order, so a batch cut or ordered otherwise is mixed otherwise.

    Args:
        alpha: above 0; the smaller, the nearer is `w` to 0 or 1.
        classes: number of classes.

    Returns:
        A function of `(key, batch)`: `image` keeps its shape and dtype, bytes are rounded;
        `label`, integers (N,), becomes float32 (N, classes), probabilities for
        `losses.soft_cross_entropy`. Under `jit` a label that is no class gives NaN.

    Raises:
        ValueError: if a setting is out of range.
        TypeError, ValueError: when called, if the labels are not integers (N,), or, outside
            `jit`, one is no class.

    Reference: Zhang et al. 2018, https://arxiv.org/abs/1710.09412

    >>> batch = {"image": jnp.ones((2, 8, 8, 1)), "label": jnp.arange(2), "id": jnp.arange(2)}
    >>> mixup(0.2, classes=10)(jax.random.key(0), batch)["label"].shape
    (2, 10)
    """
    checks.positive("alpha", alpha)
    classes = checks.count("classes", classes)

    def augment(key: jax.Array, batch: Batch) -> Batch:
        x, labels = _images(batch), _one_hot(batch, classes)
        weight = symmetric_beta(float(alpha), _uniform(key, batch, 2))
        images = mix(x.astype(jnp.float32), weight)
        return {**batch, "image": _narrow(images, x.dtype), "label": mix(labels, weight)}

    return augment


def normalise(mean: Channels, std: Channels) -> Augmentation:
    """`(image - mean) / std`, bytes first divided by 255; nothing is drawn.

    Args:
        mean: one number or one a channel, on the scale 0..1.
        std: likewise, above zero.

    Returns:
        A function of `(key, batch)`; `image` keeps its shape and dtype, but bytes become float32.

    Raises:
        ValueError: if `std` is not above zero, or there are not as many numbers as channels.

    >>> batch = {"image": jnp.asarray([[[[0], [255]]]], jnp.uint8)}
    >>> normalise(0.5, 0.5)(jax.random.key(0), batch)["image"].ravel()
    Array([-1.,  1.], dtype=float32)
    """
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"std is {std}, expected std > 0")

    def augment(key: jax.Array, batch: Batch) -> Batch:
        x = _images(batch)
        if {np.size(mean), np.size(std)} - {1, x.shape[-1]}:
            raise ValueError(
                f"mean is {mean}, std {std}, expected one number or {x.shape[-1]}, one a channel"
            )
        return {**batch, "image": image.normalise(x, mean, std)}

    return augment


def _each_image(count: int, function: Callable[[jax.Array, jax.Array], jax.Array]) -> Augmentation:
    """Lifts a function of one image (H, W, C) and `count` uniform numbers of its own, (count,)."""

    def loop(x: jax.Array, uniform: jax.Array) -> jax.Array:
        return jax.lax.map(lambda pair: function(*pair), (x, uniform))

    def augment(key: jax.Array, batch: Batch) -> Batch:
        x, uniform = _images(batch), _uniform(key, batch, count)
        # A loop is as fast as vmap on CPU, and XLA does not fuse what follows into it. It does
        # into the gathers of a vmap: shift, flip, cutout together took 2.0 ms so, 0.4 ms in loops.
        y = jax.lax.platform_dependent(x, uniform, cpu=loop, default=jax.vmap(function))
        return {**batch, "image": y}

    return augment


def _images(batch: Batch) -> jax.Array:
    """The batch's images, refused unless they are bytes or floats (N, H, W, C)."""
    if not isinstance(batch, dict) or "image" not in batch:
        raise ValueError(f'batch must be a dict that has "image" (N, H, W, C), got {batch!r:.200}')
    x = batch["image"]
    checks.array("image", x)
    if x.ndim != 4:
        raise ValueError(
            f"image has shape {x.shape}, expected (N, H, W, C); add a missing batch axis with "
            "image[None], a missing channel axis with image[..., None]"
        )
    if x.dtype != jnp.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"image must be uint8 or floating point, got {x.dtype}")
    return jnp.asarray(x)


def _uniform(key: jax.Array, batch: Batch, count: int) -> jax.Array:
    """Numbers in [0, 1) of each example's own key: (N, count) float32."""
    number = _one_each("id", batch, "each example's number in the data set, by which it draws")
    key = checked_key(key)

    def draw(number: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, number), (count,), jnp.float32)

    return jax.vmap(draw)(number)


def _one_each(name: str, batch: Batch, what: str) -> jax.Array:
    """An entry of the batch, refused unless it is an integer for each image."""
    count = len(batch["image"])
    if name not in batch:
        raise ValueError(
            f'batch has no "{name}", {what}: add int32 ({count},) beside {", ".join(sorted(batch))}'
        )
    checks.integer(name, batch[name])
    if batch[name].shape != (count,):
        raise ValueError(f"{name} has shape {batch[name].shape}, expected ({count},), one an image")
    return jnp.asarray(batch[name])


def _integers(uniform: jax.Array, *counts: int) -> jax.Array:
    """Uniform numbers (k,) as integers in 0..count-1 for each of k counts, int32."""
    return (uniform * jnp.asarray(counts, jnp.float32)).astype(jnp.int32)


def _window(x: jax.Array, uniform: jax.Array, height: int, width: int, padding: int) -> jax.Array:
    """A window of one padded image."""
    room = [x.shape[0] + 2 * padding - height, x.shape[1] + 2 * padding - width]
    if min(room) < 0:
        raise ValueError(
            f"a window of {height} x {width} is larger than images of {x.shape[0]} x {x.shape[1]} "
            f"padded by {padding}: write padding={padding + (1 - min(room)) // 2}, or crop less"
        )
    row, column = _integers(uniform, room[0] + 1, room[1] + 1)
    x = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(x, (row, column, 0), (height, width, x.shape[-1]))


def _turn(x: jax.Array, angle: jax.Array) -> jax.Array:
    """A bordered image (1 + H + 2, 1 + W + 2, C) turned by `angle`: (H, W, C), both float32."""
    height, width, stride = x.shape[0] - 3, x.shape[1] - 3, x.shape[1]
    # Where each pixel comes from, in 1/256 pixel and at most one pixel outside. Fixed point gives
    # the same bits in whatever order a compiler computes.
    cos, sin = (jnp.round(f(angle) * 2**14).astype(jnp.int32) for f in (jnp.cos, jnp.sin))
    down = 2 * jnp.arange(height, dtype=jnp.int32)[:, None] - (height - 1)  # twice from the centre
    right = 2 * jnp.arange(width, dtype=jnp.int32) - (width - 1)
    row = ((cos * down + sin * right + 64) >> 7) + 128 * (height - 1)
    column = ((cos * right - sin * down + 64) >> 7) + 128 * (width - 1)
    row, column = jnp.clip(row, -256, 256 * height), jnp.clip(column, -256, 256 * width)
    first, pixels = ((row >> 8) + 1) * stride + (column >> 8) + 1, x.reshape(-1, x.shape[-1])
    lower, further = ((i & 255).astype(x.dtype)[..., None] / 256 for i in (row, column))

    def at(offset: int) -> jax.Array:
        return pixels.at[first + offset].get(mode="promise_in_bounds")

    above = at(0) * (1 - further) + at(1) * further
    below = at(stride) * (1 - further) + at(stride + 1) * further
    return _cut(above) * (1 - lower) + _cut(below) * lower


def _cut(x: jax.Array) -> jax.Array:
    """Float32 rounded to 16 significant bits."""
    # Products with weights of 8 bits are then exact, so the sum of two is the same whether or not
    # the compiler fuses it with them, which it decides anew for every size of a batch.
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=15)


def _narrow(x: jax.Array, dtype: Any) -> jax.Array:
    """Back to an image's dtype; averages of bytes lie within 0..255."""
    return (jnp.round(x) if dtype == jnp.uint8 else x).astype(dtype)


def _one_hot(batch: Batch, classes: int) -> jax.Array:
    """The labels as probabilities (N, classes) float32."""
    label = _one_each("label", batch, "each example's class, which mixup mixes")
    checks.within("label", label, 0, classes - 1)
    label = label.astype(jnp.int32)  # or 1000 could not be compared with uint8
    valid = ((label >= 0) & (label < classes))[:, None]
    # As in the losses: nothing trains on a label that is no class unseen.
    return jnp.where(valid, jax.nn.one_hot(label, classes, dtype=jnp.float32), jnp.nan)
