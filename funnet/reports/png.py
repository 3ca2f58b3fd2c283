"""Pictures inside a page: PNG by hand, since a few lines of zlib spare a dependency."""

import base64
import struct
import zlib
from typing import Any

import numpy as np

LARGEST = 96  # pixels on a side, for a page with many pictures to stay small


def encode(image: np.ndarray) -> bytes:
    """A PNG file of an image `(H, W, C)` uint8 with one or three channels.

    Reference: the PNG specification, https://www.w3.org/TR/png-3/
    """
    height, width, channels = image.shape
    rows = np.pad(image.reshape(height, -1), ((0, 0), (1, 0)))  # a zero first: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def data_uri(image: np.ndarray) -> str:
    """An image as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(encode(image)).decode()


def shown(images: Any) -> np.ndarray:
    """Images `(N, H, W, C)` of any numbers as uint8, for people to see.

    Floats in 0..1 and numbers in 0..255 are taken for what they seem; others, such as normalised
    ones, are stretched from the least to the greatest of all. Large images are made smaller.
    """
    images = _smaller(np.asarray(images))
    if images.dtype == np.uint8:
        return images
    kind, images = images.dtype.kind, np.nan_to_num(images.astype(np.float64))
    low, high = float(images.min(initial=0)), float(images.max(initial=0))
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255 and (kind in "iu" or high > 16):
        low, high = 0.0, 255.0
    scaled = (images - low) * (255 / max(high - low, 1e-300))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _smaller(images: np.ndarray) -> np.ndarray:
    """Blocks of pixels averaged until a side is short enough."""
    n, height, width, channels = images.shape
    by = -(-max(height, width) // LARGEST)
    if by == 1 or min(height, width) < by:
        return images
    high, wide = height // by, width // by
    blocks = images[:, : high * by, : wide * by].reshape(n, high, by, wide, by, channels)
    means = blocks.astype(np.float64).mean(axis=(2, 4))
    return np.round(means).astype(np.uint8) if images.dtype == np.uint8 else means
