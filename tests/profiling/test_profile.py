"""`fn.profile` of whole steps: that its parts agree, and what it refuses."""

import dataclasses
import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn
from funnet.profiling import sharing
from funnet.profiling.places import Places
from funnet.profiling.report import LayerCost, Memory, Profile
from funnet.profiling.timeline import Timeline


@fn.layer
def block(p, x):
    return x + fn.relu(fn.dense(p["dense"], x, 16))


@fn.layer
def cnn(p, x):
    x = fn.max_pool(fn.relu(fn.conv(p["conv1"], x, 8, 3)), 2)
    x = fn.max_pool(fn.relu(fn.conv(p["conv2"], x, 16, 3)), 2)
    x = fn.repeat(block, 3)(p["blocks"], fn.dense(p["hidden"], fn.flatten(x), 16))
    return fn.dense(p["out"], x, 10)


def setting(layer=cnn, shape=(32, 16, 16, 3)):
    model, optimizer = fn.Model(layer), optax.adam(1e-3)
    batch = {"image": np.ones(shape, "float32"), "label": np.zeros(shape[0], "int32")}
    step = fn.train_step(fn.classification(model), optimizer)
    return step, fn.Run.start(model, optimizer, batch["image"]), batch


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    step, run, batch = setting()
    before = jax.tree.map(np.asarray, run)
    profile = fn.profile(step, run, batch, repeats=3, trace=tmp_path_factory.mktemp("trace"))
    jax.tree.map(np.testing.assert_array_equal, before, run)  # still there, and unchanged
    return profile


PATHS = ["", "conv1", "conv2", "hidden", "blocks", "blocks.dense", "out"]


def test_every_layer_has_a_row(found):
    assert sorted(row.path for row in found.layers) == sorted(PATHS)
    layers = {row.path: row.layer for row in found.layers}
    assert layers["conv1"] == "conv"
    assert layers["blocks"] == "block"
    assert {row.model for row in found.layers} == {"cnn"}


def test_the_work_is_that_of_the_layers_and_the_rest(found):
    assert found.flops == sum(row.flops for row in found.layers) + found.outside_flops
    by_path = {row.path: row.flops for row in found.layers}
    factors = 32 * 8 * 8 * 8 * 9 * 16  # of the second convolution, its padding counted
    assert 0.7 * 3 * 2 * factors < by_path["conv2"] < 3.3 * 2 * factors
    assert by_path["blocks.dense"] >= 3 * 3 * 2 * 32 * 16 * 16
    assert 0 < found.outside_flops < found.flops


def test_time_goes_to_layers_both_ways(found):
    for row in found.layers:
        if row.path:
            assert row.forward > 0, row
            assert row.backward > 0, row
            assert row.seconds == row.forward + row.backward
    assert found.outside > 0
    assert found.untold >= 0


def test_the_parts_of_the_time_add_up(found):
    parts = sum(row.seconds for row in found.layers) + found.outside + found.untold
    assert parts == pytest.approx(found.traced, rel=0.02)
    assert sum(row.seconds for row in found.layers) > 0.2 * parts


def test_rates_follow_from_what_was_measured(found):
    assert found.spread[0] <= found.seconds <= found.spread[1]
    assert found.seconds > 0
    assert found.rate == found.flops / found.seconds
    assert found.fraction == found.rate / found.peak > 0
    assert found.dtype == "float32"
    assert found.devices == 1
    assert all("times slower" in note for note in found.notes)


def test_memory_is_that_of_run_and_batch_and_what_lives_within(found):
    memory = found.memory
    _, run, batch = setting()
    # The parameters of a step's run are donated, so the next ones cost nothing.
    given = sum(x.nbytes for x in jax.tree.leaves((run, batch)))
    assert given <= memory.arguments <= given + 1024
    assert 0 < memory.shared <= memory.outputs <= memory.arguments
    assert memory.temporaries > 32 * 16 * 16 * 8 * 4  # the first convolution's output at least
    assert (
        memory.peak == sum((memory.arguments, memory.outputs, memory.temporaries)) - memory.shared
    )
    assert found.bytes > memory.arguments


def test_the_trace_is_where_the_profile_says(found):
    assert found.trace.name == "perfetto_trace.json.gz"
    assert json.loads(gzip.decompress(found.trace.read_bytes()))["traceEvents"]
    assert f"trace: {found.trace}, to be opened at https://ui.perfetto.dev" in str(found)


def test_the_table_has_a_line_for_each_row(found):
    lines = str(found).splitlines()
    assert lines[0] == f"a training step on {found.device}"
    starts = [line.split("  ")[0] for line in lines]
    for path in ["time", "work", "moved", "memory", "outside layers", "untold", ".", *PATHS[1:]]:
        assert path in starts, path
    assert repr(found) == str(found)
    assert "of a large float32 product" in lines[2]


def known_profile():
    row = LayerCost("conv", "conv", "net", 2_000_000, 1e-3, 3e-3)
    other = LayerCost("", "judge", "judge", 500, 0.0, 0.0)
    return Profile(
        seconds=8e-3,
        spread=(7.5e-3, 9e-3),
        flops=4_000_000,
        bytes=80_000,
        memory=Memory(1000, 900, 800, 5000),
        peak=1e9,
        dtype="float32",
        device="gpu (kind)",
        devices=1,
        layers=(row, other),
        outside_flops=1_999_500,
        outside=4e-3,
        untold=2e-3,
        traced=10e-3,
        notes=("a word",),
    )


def test_the_table_of_known_numbers():
    known = known_profile()
    assert str(known).splitlines() == [
        "a training step on gpu (kind)",
        "time    8.00 ms (median; 7.50 ms to 9.00 ms)",
        "work    4.00 MFLOP, 500 MFLOP/s: 50% of the 1.00 GFLOP/s of a large float32 product",
        "moved   80.0 kB, 10.0 MB/s",
        "memory  6.10 kB at most: arguments 1.00 kB, outputs 900 B, shared 800 B, "
        "temporaries 5.00 kB",
        "",
        "path            layer        work  forward  backward   time",
        "-----------------------------------------------------------",
        "net: conv       conv   2.00 MFLOP  1.00 ms   3.00 ms  40.0%",
        "judge: .        judge    500 FLOP     0 ns      0 ns   0.0%",
        "outside layers         2.00 MFLOP                     40.0%",
        "untold                                                20.0%",
        "",
        "times are of a step under the profiler, which took 10.0 ms",
        "a word",
    ]
    bare = dataclasses.replace(known, outside=None, untold=None, traced=None, memory=None, notes=())
    bare = dataclasses.replace(bare, layers=(LayerCost("conv", "conv", "net", 500),))
    assert "untold" not in str(bare)
    assert "memory" not in str(bare)


def test_seconds_of_a_trace_are_shared_out_by_step():
    found = Timeline({"a": 0.06, "copy": 0.03}, pathlib.Path("t"), full=False)
    scopes = {"a": "jit(step)/add", "copy": ""}
    shared = sharing._shared(known_profile(), found, Places([]), scopes, 3, 0.05)
    assert shared.outside == pytest.approx(0.02)
    assert shared.untold == pytest.approx(0.03)
    assert [row.seconds for row in shared.layers] == [0.0, 0.0]
    slower = "the profiler made the step 6 times slower: its operations are tiny"
    assert shared.notes == ("a word", slower)


@fn.layer
def small(p, x):
    return fn.dense(p["out"], x, 3)


def test_without_a_trace_there_is_no_time_by_layer_and_a_word_why(monkeypatch, tmp_path):
    def broken(*args, **how):
        raise RuntimeError("another profiler is running")

    monkeypatch.setattr(sharing, "recorded", broken)
    step, run, batch = setting(small, (4, 6))
    found = fn.profile(step, run, batch, repeats=1)
    assert found.layers[0].seconds is found.outside is found.untold is found.trace is None
    assert found.notes == ("there is no time by layer: RuntimeError: another profiler is running",)
    assert found.notes[0] in str(found)
    with pytest.raises(RuntimeError, match="another profiler"):
        fn.profile(step, run, batch, repeats=1, trace=tmp_path)


def test_any_step_will_do_jitted_or_not_and_loops_are_told():
    @jax.jit
    def step(run, batch):
        run = {"w": jax.lax.while_loop(lambda w: w[0, 0] > 9.0, lambda w: w @ batch["x"], run["w"])}
        return run, {"loss": run["w"].sum()}

    found = fn.profile(step, {"w": jnp.ones((4, 4))}, {"x": jnp.ones((4, 4))}, repeats=1)
    assert found.layers == ()
    assert found.flops >= 2 * 4**3
    assert "a while loop's body is counted once" in found.notes[0]


BAD = [
    ({"step": 3}, TypeError, r"step must be a function .* got int; write fn.profile\(step, run"),
    ({"batch": np.ones(3)}, TypeError, "batch must be a dict of arrays, got ndarray"),
    ({"batch": [{"x": 1}]}, TypeError, r"got list; write batches\[0\]"),
    (
        {"batch": {"image": [1.0]}},
        TypeError,
        "batch.image.* must be a JAX or NumPy array, got float",
    ),
    ({"repeats": 0}, ValueError, "repeats is 0, expected repeats >= 1"),
    ({"repeats": 1.5}, TypeError, "repeats must be an integer"),
    ({"trace": __file__}, OSError, "trace must be a folder, got the file"),
    ({"step": lambda run, batch: run}, TypeError, r"must return \(run, metrics\), it returned Run"),
    ({"step": lambda run, batch: (run.params, {})}, ValueError, "run of the structure"),
    (
        {"step": lambda run, batch: (dataclasses.replace(run, step=run.step * 1.0), {})},
        ValueError,
        r"step was int32\[\], and came back as float32\[\]",
    ),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_bad_input_is_refused_in_words(change, kind, message):
    step, run, batch = setting(small, (4, 6))
    given = {"step": step, "run": run, "batch": batch, **change}
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(kind, match=message),
    ):
        fn.profile(given.pop("step"), given.pop("run"), given.pop("batch"), **given)


def test_batches_are_told_from_a_batch():
    step, run, batch = setting(small, (4, 6))
    with pytest.raises(TypeError, match=r"got Batches; write batches\[0\]"):
        fn.profile(step, run, fn.data.batches(batch, 2))
