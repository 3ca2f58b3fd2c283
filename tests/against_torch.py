"""Our functions beside PyTorch's: the same arrays in, the same outputs and gradients out."""

import jax
import numpy as np
import pytest


def agree(ours, theirs, arrays, *, tolerance=1e-5):
    """Holds outputs, and gradients for every floating array, against those of PyTorch.

    Both functions take the dict of `arrays`, in the layout of this library: `ours` as JAX arrays,
    `theirs` as tensors, which it brings into PyTorch's layout itself, and whose results it brings
    back, so that gradients need no conversion. Each gives an array or a tuple of arrays.

    The error is the largest difference over the largest element, of each array by itself; a
    gradient that is next to nothing beside the others (below a hundredth of the largest) is
    measured by that hundredth.
    """
    torch = pytest.importorskip("torch")
    floating = [name for name, x in arrays.items() if np.issubdtype(x.dtype, np.floating)]
    fixed = {name: x for name, x in arrays.items() if name not in floating}

    tensors = {name: torch.tensor(np.asarray(x)) for name, x in arrays.items()}
    leaves = [tensors[name].requires_grad_() for name in floating]
    expected = _tuple(theirs(tensors))
    rng = np.random.default_rng(0)
    pulls = [rng.normal(size=tuple(y.shape)).astype(np.float32) for y in expected]
    slopes = torch.autograd.grad(expected, leaves, [torch.tensor(g) for g in pulls])

    @jax.jit
    def run(leaves, fixed):
        outputs, pull = jax.vjp(lambda leaves: _tuple(ours({**leaves, **fixed})), leaves)
        return outputs, pull(tuple(pulls))[0]

    outputs, gradients = run({name: arrays[name] for name in floating}, fixed)
    for i, (y, target) in enumerate(zip(outputs, expected, strict=True)):
        target = target.detach().numpy()
        assert y.shape == target.shape, f"output {i}: {y.shape}, PyTorch gives {target.shape}"
        _near(f"output {i}", y, target, 0.0, tolerance)
    floor = max((slope.abs().max().item() for slope in slopes if slope.numel()), default=0.0) / 100
    for name, slope in zip(floating, slopes, strict=True):
        _near(f"the gradient of {name}", gradients[name], slope.numpy(), floor, tolerance)


def _tuple(outputs):
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def _near(what, found, target, floor, tolerance):
    if not target.size:
        return
    scale = max(np.abs(target).max(), floor, np.finfo(np.float32).tiny)
    error = np.abs(np.asarray(found) - target).max() / scale
    assert error <= tolerance, f"{what} is off by {error:.1e} of its largest element"
