"""Contenders have the same parameters, and the same function where weights are carried over."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import funnet_, loops, plain
from benchmarks.workloads import WORKLOADS, data, orders, select

SMALL = {name: dataclasses.replace(w, examples=2, batch=2) for name, w in WORKLOADS.items()}


@pytest.mark.parametrize("name", WORKLOADS)
def test_funnet_and_plain_jax_have_the_parameters(name):
    workload = SMALL[name]
    shapes = funnet_.model_of(workload.model).shapes(data(workload)[0])[0]
    assert loops.count(shapes) == workload.parameters
    assert loops.count(plain.drawn(workload.model)[0]) == workload.parameters


@pytest.mark.parametrize("name", WORKLOADS)
def test_torch_has_the_parameters(name):
    pytest.importorskip("torch")
    from benchmarks.peers import pytorch

    assert pytorch.Trained(SMALL[name], "indexed").parameters == WORKLOADS[name].parameters


@pytest.mark.parametrize("name", ["W1", "W4", "W7"])
def test_torch_and_plain_jax_are_the_same_function(name):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import pytorch

    workload = SMALL[name]
    params, state = plain.drawn(workload.model)
    trained = pytorch.Trained(workload, "indexed")
    with torch.no_grad():
        for theirs, ours in zip(trained.module.parameters(), params, strict=True):
            moved = ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours.T
            theirs.copy_(torch.from_numpy(np.ascontiguousarray(moved)))
        loss = pytorch.loss(workload, trained.module(trained.x), trained.y).item()
    x, y = data(workload)
    output, _ = plain.APPLY[workload.model](params, state, jnp.asarray(x))
    np.testing.assert_allclose(loss, loops.loss(workload, output, jnp.asarray(y)), rtol=1e-4)


def test_the_same_minibatches_are_shuffled_epochs():
    rows = orders(WORKLOADS["W4"])
    assert sorted(next(rows)) == sorted(next(rows)) == list(range(100))


def test_a_workload_that_is_not_there_is_named():
    assert [w.name for w in select(["W3"])] == ["W3-4", "W3-128"]
    with pytest.raises(ValueError, match="W9"):
        select(["W9"])


def test_a_step_of_plain_jax_lowers_the_loss_of_a_line():
    workload = WORKLOADS["W4"]
    trained = peers.start("plain-step", workload)
    first = trained.run(1)
    assert trained.run(20) < first / 2
    assert jax.tree.leaves(trained.carry)
