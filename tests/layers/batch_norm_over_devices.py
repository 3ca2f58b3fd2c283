"""Batch norm over four devices: a script, for their number is fixed when JAX starts.

It compares outputs, new state and gradients with those of the whole batch on one device.
"""

import itertools
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funnet as fn

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (8, 3, 5)).astype(np.float32)
WEIGHT = RNG.normal(size=X.shape).astype(np.float32)
MASKS = (None, np.arange(8) < 5)  # of the last device's part, nothing counts
PARAMS = {"scale": jnp.arange(1.0, 6), "bias": jnp.ones(5)}
STATE = {"mean": jnp.zeros(5), "var": jnp.ones(5)}
MESHES = [
    jax.make_mesh((4,), ("data",), axis_types=(k,)) for k in (AxisType.Auto, AxisType.Explicit)
]


def loss(params, x, weight, mask, axis_name=None):
    model = fn.Model(fn.batch_norm, axis_name=axis_name)
    y, after = model.apply(params, STATE, x, train=True, mask=mask)
    return (jnp.sin(y) * weight).sum(), (y, after)


def outcome(*arrays, **settings):
    gradients, kept = jax.grad(loss, (0, 1), has_aux=True)(*arrays, **settings)
    return gradients, kept


def placed(mesh, mask):
    """The parameters on all devices, and a part of the batch on each."""
    whole, rows = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
    return jax.device_put((PARAMS, X, WEIGHT, mask), (whole, rows, rows, rows))


def by_jit(mesh, mask):
    """The arrays are sharded, and that is all."""
    found = jax.jit(outcome)(*placed(mesh, mask))
    assert len(found[1][0].sharding.device_set) == 4
    return found


def by_shard_map(mesh, mask, *, check_vma, inside):
    """Gradients inside the mapped function, or of it; those of replicated parameters add up."""
    rows = P("data")
    specs = (P(), rows, rows, None if mask is None else rows)

    def mapped(run, out_specs):
        run = jax.shard_map(
            run, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=check_vma
        )
        return jax.jit(run)

    def part(*arrays):
        (dparams, dx), kept = outcome(*arrays, axis_name="data")
        if not check_vma:  # else the gradient of what all share is summed already
            dparams = jax.lax.psum(dparams, "data")
        return (dparams, dx), kept

    def losses(*arrays):
        value, kept = loss(*arrays, axis_name="data")
        return jax.lax.psum(value, "data"), kept

    if inside:
        return mapped(part, ((P(), rows), (rows, P())))(*placed(mesh, mask))
    whole = mapped(losses, (P(), (rows, P())))
    return jax.grad(whole, (0, 1), has_aux=True)(*placed(mesh, mask))


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4),
        found,
        expected,
    )


assert len(jax.devices()) == 4
for mask in MASKS:
    expected = jax.jit(outcome)(PARAMS, X, WEIGHT, mask)
    for mesh in MESHES:
        close(by_jit(mesh, mask), expected)
    for check_vma, inside in itertools.product((True, False), repeat=2):
        close(by_shard_map(MESHES[0], mask, check_vma=check_vma, inside=inside), expected)
