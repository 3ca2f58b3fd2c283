"""The pools, with their gradients, beside PyTorch's."""

import numpy as np
import pytest
from against_torch import agree

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def drawn(seed, least=1):
    """An image of 1 to 3 axes; every second one of few values, and so full of ties."""
    rng = np.random.default_rng(seed)
    axes = seed % 3 + 1
    sizes = [int(n) for n in rng.integers(least, 9, axes)]
    x = rng.normal(size=(int(rng.integers(1, 4)), *sizes, int(rng.integers(1, 4))))
    return rng, (np.round(x) if seed % 2 else x).astype(np.float32)


def theirs(name, axes, *args, **more):
    """PyTorch's function of images in our layout."""
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, f"{name}{axes}d")
    return lambda a: function(a["x"].movedim(-1, 1), *args, **more).movedim(1, -1)


def geometry(rng, x):
    """A window that fits, a stride, and a padding of at most half the window."""
    sizes = np.array(x.shape[1:-1])
    window = rng.integers(1, np.minimum(sizes, 5) + 1)
    stride = rng.integers(1, 4, len(sizes))
    return window.tolist(), stride.tolist(), (rng.integers(0, window // 2 + 1)).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_max_pool(seed):
    rng, x = drawn(seed)
    window, stride, padding = geometry(rng, x)
    agree(
        lambda a: fn.max_pool(a["x"], window, stride=stride, padding=padding),
        theirs("max_pool", x.ndim - 2, window, stride, padding),
        {"x": x},
    )


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_avg_pool(seed, include):
    rng, x = drawn(seed)
    window, stride, padding = geometry(rng, x)
    settings = {"stride": stride, "padding": padding, "count_include_pad": include}
    agree(
        lambda a: fn.avg_pool(a["x"], window, **settings),
        theirs("avg_pool", x.ndim - 2, window, **settings),
        {"x": x},
    )


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("seed", range(40))
def test_adaptive_pools(seed, kind):
    rng, x = drawn(seed)
    sizes = rng.integers(1, 10, x.ndim - 2)
    if seed % 5 == 0:  # windows of one size
        sizes = np.maximum(np.array(x.shape[1:-1]) // 2, 1)
    ours = {"avg": fn.adaptive_avg_pool, "max": fn.adaptive_max_pool}[kind]
    agree(
        lambda a: ours(a["x"], sizes.tolist()),
        theirs(f"adaptive_{kind}_pool", x.ndim - 2, sizes.tolist()),
        {"x": x},
    )


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("seed", range(40))
def test_global_pools(seed, kind):
    _, x = drawn(seed)
    axes = x.ndim - 2
    ours = {"avg": fn.global_avg_pool, "max": fn.global_max_pool}[kind]
    expected = theirs(f"adaptive_{kind}_pool", axes, 1)
    agree(lambda a: ours(a["x"]), lambda a: expected(a).flatten(1), {"x": x})


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("seed", range(40))
def test_global_pools_over_lengths_are_those_of_each_sequence_alone(seed, kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    n, time, channels = (int(size) for size in rng.integers(1, 7, 3))
    x = np.round(2 * rng.normal(size=(n, time, channels))).astype(np.float32)
    lengths = rng.integers(1, time + 1, n)
    ours = {"avg": fn.global_avg_pool, "max": fn.global_max_pool}[kind]

    def alone(a):
        function = getattr(torch.nn.functional, f"adaptive_{kind}_pool1d")
        rows = zip(a["x"], lengths.tolist(), strict=True)
        return torch.stack([function(row[:size].T, 1)[:, 0] for row, size in rows])

    agree(lambda a: ours(a["x"], lengths=lengths), alone, {"x": x})
