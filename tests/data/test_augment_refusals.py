"""What augmentations refuse: settings, batches and keys, each with a message of its own."""

import numpy as np
import pytest

from funnet.data import augment

GOOD = {"image": np.ones((2, 4, 5, 1), np.uint8), "label": np.arange(2), "id": np.arange(2)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.crop(0), "height is 0, expected height >= 1"),
        (lambda: augment.crop(4, -1), "width is -1, expected width >= 1"),
        (lambda: augment.crop(4, padding=-1), "padding is -1, expected padding >= 0"),
        (lambda: augment.crop(4.0), r"height must be an integer, got 4\.0; write int\(height\)"),
        (lambda: augment.shift(-1), "pixels is -1, expected pixels >= 0"),
        (lambda: augment.shift(0.5), r"pixels must be an integer, got 0\.5"),
        (lambda: augment.rotate(-1), "degrees is -1, expected 0 <= degrees <= 180"),
        (lambda: augment.rotate(np.nan), "degrees is nan, expected 0 <= degrees <= 180"),
        (lambda: augment.cutout(0), "size is 0, expected size >= 1"),
        (lambda: augment.mixup(0, 10), "alpha is 0, expected alpha > 0"),
        (lambda: augment.mixup(np.nan, 10), "alpha is nan, expected alpha > 0"),
        (lambda: augment.mixup(1, 0), "classes is 0, expected classes >= 1"),
        (lambda: augment.normalise(0, [1, 0, 1]), r"std is \[1, 0, 1\], expected std > 0"),
        (lambda: augment.chain(augment.flip(), 3), r"functions of \(key, batch\), got 3"),
    ],
)
def test_settings_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (augment.crop(7, 5, padding=1), {}, r"7 x 5 is larger than .* 4 x 5.* write padding=2"),
        (augment.crop(4, 6), {}, r"4 x 6 is larger than .*: write padding=1, or crop less"),
        (augment.alternating_flip(), {}, r'no "epoch", the epoch .*: add int32 \(2,\) beside id'),
        (augment.flip(), {"id": None}, r'no "id", .* draws: add int32 \(2,\) beside im'),
        (augment.flip(), {"id": np.ones(2)}, "id must be integers, got float64"),
        (augment.flip(), {"id": np.ones(3, int)}, r"id has shape \(3,\), expected \(2,\)"),
        (augment.flip(), {"image": None}, 'must be a dict that has "image"'),
        (augment.flip(), {"image": [[1]]}, "image must be a JAX or NumPy array, got list"),
        (augment.flip(), {"image": GOOD["image"][0]}, r"has shape \(4, 5, 1\), expected \(N, H"),
        (augment.flip(), {"image": GOOD["image"] > 0}, "must be uint8 or floating .*, got bool"),
        (augment.mixup(1, 2), {"label": None}, r'no "label", .* class.*: add int32'),
        (augment.mixup(1, 2), {"label": np.eye(2)}, "label must be integers, got float64"),
        (augment.mixup(1, 2), {"label": np.array([[0], [1]])}, r"label has shape \(2, 1\), exp"),
        (augment.mixup(1, 2), {"label": np.array([0, 2])}, r"label\[1\] is 2, expected 0 <= "),
        (augment.normalise([0.1, 0.2, 0.3], 1), {}, r"mean is .*, expected one number or 1, one"),
    ],
)
def test_batches_refused(key, function, change, message):
    batch = {name: entry for name, entry in {**GOOD, **change}.items() if entry is not None}
    with pytest.raises((ValueError, TypeError), match=message):
        function(key, batch)


@pytest.mark.parametrize("bad", [0, None, np.zeros(2, np.uint32)])
def test_a_key_that_is_none(bad):
    with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
        augment.flip()(bad, GOOD)
