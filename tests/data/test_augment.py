"""Augmentations: laws that all of them keep, and what each does, redone in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from funnet.data import augment
from funnet.layers import image

PER_IMAGE = {
    "crop": augment.crop(9, 8, padding=2),
    "shift": augment.shift(3),
    "flip": augment.flip(),
    "rotate": augment.rotate(40),
    "cutout": augment.cutout(4),
    "chain": augment.chain(augment.shift(2), augment.rotate(15), augment.normalise([0.4], 0.2)),
}
MIXUP = augment.mixup(0.5, classes=5)
ALL = {**PER_IMAGE, "mixup": MIXUP, "normalise": augment.normalise([0.4], 0.2)}
SEVERAL = augment.chain(augment.rotate(9), MIXUP)
TOLERANCE = {"uint8": 0.501, "float32": 1e-6, "bfloat16": 1 / 250}
EXACT = ("uint8", "float32")
quick = pytest.mark.usefixtures("quick_compilation")  # nothing about bits or speed


def draw(count, size=(11, 8, 3), dtype="uint8", seed=0):
    """A batch as numbered examples of a larger data set; no pixel is zero."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (count, *size), np.uint8)
    if dtype != "uint8":
        images = (images.astype(np.float32) / 255).astype(jnp.dtype(dtype))
    labels = rng.integers(0, 5, count).astype(np.int32)
    numbers = rng.choice(50_000, count, replace=False).astype(np.int32)
    return {"image": images, "label": labels, "id": numbers}


def in_all_dtypes(count, size=(11, 8, 3)):
    return {dtype: draw(count, size, dtype) for dtype in TOLERANCE}


def compiled(function):
    """One program for a batch of each dtype: compiling is what takes time here."""
    every = jax.jit(lambda key, batches: {d: function(key, b) for d, b in batches.items()})
    return lambda key, batches: jax.device_get(every(key, batches))


def rows(batches, index):
    return jax.tree.map(lambda entry: entry[index], batches)


def assert_same(got, expected):
    def same(x, y):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(same, got, expected)


def wide(x):
    return np.asarray(x).astype(np.float64)


# --- laws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PER_IMAGE)
def test_what_happens_to_an_image_is_its_own_affair(key, name):
    function, batches = compiled(PER_IMAGE[name]), {d: draw(12, dtype=d) for d in EXACT}
    whole = function(key, batches)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(12)
        assert_same(function(key, rows(batches, order)), rows(whole, order))
    alone = [function(key, rows(batches, slice(i, i + 1))) for i in range(12)]
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *alone), whole)
    renumbered = {d: {**batch, "id": batch["id"] + 1} for d, batch in batches.items()}
    for other in (function(jax.random.key(1), batches), function(key, renumbered)):
        assert (other["uint8"]["image"] != whole["uint8"]["image"]).any()


def test_a_batch_is_augmented_as_its_halves_are(key):
    function, batch = jax.jit(PER_IMAGE["chain"]), draw(12, dtype="float32")
    halves = [function(key, rows(batch, part)) for part in (slice(6), slice(6, 12))]
    whole = jax.tree.map(lambda *x: np.concatenate(x), *halves)
    assert_same(whole, function(key, batch))


def test_loop_of_a_cpu_and_vmap_of_other_devices_agree_to_the_bit(monkeypatch, key):
    function, batch = augment.chain(PER_IMAGE["chain"], PER_IMAGE["crop"]), draw(6, dtype="float32")
    looped = jax.jit(function)(key, batch)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    assert_same(jax.jit(lambda *args: function(*args))(key, batch), looped)


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_dtypes_stay(key, name):
    batches = in_all_dtypes(4)
    for dtype in TOLERANCE:
        got = jax.eval_shape(ALL[name], key, batches[dtype])
        assert got.keys() == batches[dtype].keys()
        assert got["image"].shape == ((4, 9, 8, 3) if name == "crop" else (4, 11, 8, 3))
        widens = name in ("chain", "normalise") and dtype == "uint8"
        assert got["image"].dtype == ("float32" if widens else dtype)
        assert got["label"].shape == ((4, 5) if name == "mixup" else (4,))


def test_other_entries_pass_through_untouched(key):
    batch = {**draw(4), "text": "kept"}
    got = augment.flip()(key, batch)
    assert all(got[name] is batch[name] for name in ("id", "label", "text"))


@quick
def test_scan_and_vmap_over_keys_agree_and_one_trace_serves_all():
    traces, batch, keys = [], draw(6), jax.random.split(jax.random.key(3), 4)

    @jax.jit
    def scanned(keys, batch):
        traces.append(batch)
        return jax.lax.scan(lambda _, key: (0, SEVERAL(key, batch)), 0, keys)[1]

    together = jax.jit(jax.vmap(SEVERAL, (0, None)))(keys, batch)
    for name, entry in scanned(keys, batch).items():
        np.testing.assert_allclose(together[name], entry, rtol=1e-5, atol=1e-5)
    scanned(jax.random.split(keys[0], 4), draw(6, seed=1))
    assert len(traces) == 1


def test_bytes_are_the_same_without_jit_with_a_raw_key_and_with_wide_numbers(key):
    batch, function = draw(5), augment.rotate(9)
    expected = jax.jit(function)(key, batch)["image"]
    got = function(jax.random.key_data(key), {**batch, "id": batch["id"].astype(np.int64)})
    np.testing.assert_array_equal(got["image"], expected)


def test_it_lowers_for_another_platform(key):
    traced = jax.jit(SEVERAL).trace(key, draw(4))
    assert traced.lower(lowering_platforms=("cuda", "tpu")).as_text()


@quick
def test_chain_gives_each_function_a_key_of_its_own(key):
    batch, move = draw(64), jax.jit(augment.shift(1))
    once = move(jax.random.fold_in(key, 0), batch)
    twice = move(jax.random.fold_in(key, 1), once)
    assert_same(augment.chain(move, move)(key, batch), twice)
    assert (move(jax.random.fold_in(key, 0), once)["image"] != twice["image"]).any()
    assert augment.chain()(key, batch) is batch


# --- what each does ------------------------------------------------------------------------


def windows(x, height, width, padding):
    """Every window of one padded image, by its corner."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    corners = np.ndindex(x.shape[0] - height + 1, x.shape[1] - width + 1)
    return {(i, j): x[i : i + height, j : j + width] for i, j in corners}


def corner_of(got, choices):
    found = [at for at, window in choices.items() if np.array_equal(window, got)]
    assert len(found) == 1
    return found[0]


def assert_even(found, cases):
    """Each of so many cases is about as frequent as any other."""
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == cases
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@quick
@pytest.mark.parametrize(
    ("function", "size", "window"),
    [
        (augment.crop(4, 3), (6, 5, 1), (4, 3, 0)),
        (augment.crop(5, padding=1), (5, 6, 3), (5, 5, 1)),
        (augment.crop(3, 7, padding=1), (2, 6, 2), (3, 7, 1)),
        (augment.shift(2), (5, 7, 1), (5, 7, 2)),
    ],
)
def test_crop_and_shift_take_every_window_equally_often(key, function, size, window):
    batch = draw(1000, size)
    got = np.asarray(jax.jit(function)(key, batch)["image"])
    assert got.shape == (1000, *window[:2], size[2])
    choices = [windows(x, *window) for x in np.asarray(batch["image"])]
    found = [corner_of(*pair) for pair in zip(got, choices, strict=True)]
    assert_even(found, len(choices[0]))


@quick
def test_settings_that_leave_no_choice(key):
    batch = draw(3)
    function = augment.chain(augment.crop(11, 8), augment.shift(0), augment.rotate(0))
    assert_same(jax.jit(function)(key, batch), batch)


@quick
def test_an_image_may_go_wholly(key):
    got = jax.jit(augment.shift(20))(key, draw(200, (4, 5, 1)))["image"]
    assert 0 < (got == 0).all(axis=(1, 2, 3)).sum() < 200
    assert not jax.jit(augment.cutout(50))(key, draw(3))["image"].any()


@quick
def test_alternating_flip_shows_both_sides_in_turn(key):
    batch = draw(1000)
    flips = jax.jit(augment.alternating_flip(seed=3))
    seen = [
        np.asarray(flips(k, {**batch, "epoch": np.full(1000, epoch)})["image"])
        for epoch, k in enumerate(jax.random.split(key, 4))
    ]
    x = batch["image"]
    turned = np.array([(y == x[:, :, ::-1]).all(axis=(1, 2, 3)) for y in seen])
    assert (turned ^ np.array([(y == x).all(axis=(1, 2, 3)) for y in seen])).all()
    assert (turned[0] == turned[2]).all()
    assert (turned[1] == ~turned[0]).all()
    assert (turned[3] == ~turned[0]).all()
    assert scipy.stats.binomtest(int(turned[0].sum()), 1000).pvalue > 1e-3
    part = flips(key, {k: v[5:9] for k, v in {**batch, "epoch": np.full(1000, 0)}.items()})
    np.testing.assert_array_equal(part["image"], seen[0][5:9])


@quick
def test_flip_mirrors_half_of_the_images(key):
    batches = in_all_dtypes(1000, (3, 4, 2))
    for dtype, batch in compiled(augment.flip())(key, batches).items():
        got, x = wide(batch["image"]), wide(batches[dtype]["image"])
        flipped = (got == x[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (flipped ^ (got == x).all(axis=(1, 2, 3))).all()
        assert scipy.stats.binomtest(int(flipped.sum()), 1000).pvalue > 1e-3


@quick
@pytest.mark.parametrize(("size", "shape"), [(3, (6, 4, 3)), (4, (5, 7, 1))])
def test_cutout_zeroes_one_square_about_every_pixel_equally_often(key, size, shape):
    batch = draw(1000, shape)
    got, x = (np.asarray(b["image"]) for b in (jax.jit(augment.cutout(size))(key, batch), batch))
    height, width, _ = shape
    masks = {}
    for row, column in np.ndindex(height, width):
        top, left = row - size // 2, column - size // 2
        mask = np.ones(shape, bool)
        mask[max(top, 0) : top + size, max(left, 0) : left + size] = False
        masks[row, column] = mask
    assert max((~mask).sum() for mask in masks.values()) == size**2 * shape[2]
    np.testing.assert_array_equal(got[got != 0], x[got != 0])
    assert_even([corner_of(each, masks) for each in got != 0], height * width)


def turned(x, angle):
    """The image turned by `angle`, by SciPy."""
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]])
    centre = (np.array(x.shape[:2]) - 1) / 2
    shift = centre - matrix @ centre
    channels = np.moveaxis(x.astype(np.float64), -1, 0)
    options = {"order": 1, "mode": "grid-constant"}
    done = [scipy.ndimage.affine_transform(c, matrix, shift, **options) for c in channels]
    return np.stack(done, -1)


@quick
@pytest.mark.parametrize(
    ("degrees", "size"), [(15, (28, 28, 1)), (90.0, (9, 14, 3)), (180, (1, 7, 2))]
)
def test_rotate_is_scipys_affine_transform(key, degrees, size):
    batches = in_all_dtypes(20, size)
    own_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batches["uint8"]["id"])
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (1,), jnp.float32))(own_keys)
    angles = np.deg2rad(degrees) * (2 * wide(uniform)[:, 0] - 1)
    for dtype, batch in compiled(augment.rotate(degrees))(key, batches).items():
        images = wide(batches[dtype]["image"])
        expected = [turned(*pair) for pair in zip(images, angles, strict=True)]
        error = np.abs(wide(batch["image"]) - expected)
        # Each axis rounds to 1/256 pixel, and so loses 1/512 of a step from 0 to 1 (or 255).
        assert error.max() < TOLERANCE[dtype] + (1 if dtype == "uint8" else 1 / 200)
        assert error.mean() < (0.3 if dtype == "uint8" else 1 / 900)


@quick
def test_rotate_keeps_what_is_round(key):
    rows, columns = np.mgrid[-15:16, -15:16]
    disc = np.where(rows**2 + columns**2 < 80, 255, 0)[None, ..., None].repeat(50, 0)
    batch = {**draw(50), "image": jnp.asarray(disc, jnp.uint8)}
    got = np.asarray(jax.jit(augment.rotate(180))(key, batch)["image"]).astype(int)
    assert (got[:, (rows**2 + columns**2) < 60] == 255).all()
    assert (got[:, (rows**2 + columns**2) > 100] == 0).all()


def test_normalise_is_the_layer(key):
    batch, mean, std = draw(4), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    got = augment.normalise(mean, std)(key, {"image": batch["image"]})["image"]
    np.testing.assert_array_equal(got, image.normalise(jnp.asarray(batch["image"]), mean, std))


# --- mixup ---------------------------------------------------------------------------------


def weights(key, alpha, batch):
    """The weights of a batch, from labels of which no two partners have the same."""
    labels = (jnp.arange(len(batch["id"])) >= len(batch["id"]) // 2).astype(jnp.int32)
    mixed = jax.jit(augment.mixup(alpha, 2))(key, {**batch, "label": labels})
    return wide(mixed["label"])[np.arange(len(labels)), labels]


@quick
@pytest.mark.parametrize("alpha", [0.1, 1, 4])
def test_mixup_draws_weights_of_the_beta_distribution(key, alpha):
    found = weights(key, alpha, draw(4000, (1, 1, 1)))
    edges = scipy.stats.beta(alpha, alpha).ppf(np.linspace(0, 1, 7))
    assert scipy.stats.chisquare(np.histogram(found, edges)[0]).pvalue > 1e-3
    assert found.min() >= 0
    assert found.max() <= 1


@quick
def test_mixup_with_any_alpha_is_finite(key):
    batch = draw(100, (1, 1, 1))
    assert np.isin(weights(key, 1e-6, batch), [0, 1]).all()
    np.testing.assert_allclose(weights(key, 1e9, batch), 0.5, atol=1e-3)


@quick
def test_mixup_weight_follows_the_example(key):
    batch = draw(12)
    whole, order = weights(key, 0.5, batch), np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(weights(key, 0.5, rows(batch, order)), whole[order])
    np.testing.assert_array_equal(weights(key, 0.5, rows(batch, slice(4))), whole[:4])


@quick
def test_mixup_mixes_with_the_batch_in_reverse(key):
    batches = in_all_dtypes(7)
    w = weights(key, 0.5, batches["uint8"])[:, None, None, None]
    for dtype, batch in compiled(MIXUP)(key, batches).items():
        x, y = wide(batches[dtype]["image"]), np.eye(5)[batches[dtype]["label"]][:, None, None]
        expected = w * x + (1 - w) * x[::-1]
        np.testing.assert_allclose(wide(batch["image"]), expected, atol=TOLERANCE[dtype])
        expected = (w * y + (1 - w) * y[::-1])[:, 0, 0]
        np.testing.assert_allclose(batch["label"], expected, atol=1e-6)
        assert batch["label"].dtype == jnp.float32


@quick
def test_mixup_of_a_label_that_is_no_class_under_jit(key):
    batch = {**draw(4), "label": jnp.asarray([0, 5, -1, 2], jnp.int32)}
    got = jax.jit(MIXUP)(key, batch)["label"]
    assert np.isnan(got).any(axis=-1).tolist() == [False, True, True, False]
