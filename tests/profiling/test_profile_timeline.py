"""Traces: what an instruction took itself, on CPUs, GPUs and TPUs; and the places of names."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

import funnet as fn
from funnet.profiling.places import OUTSIDE, Places
from funnet.profiling.timeline import own_seconds, recorded
from funnet.profiling.work import tally


def event(name, ts, dur, pid=1, tid=1, module="jit_f", **args):
    told = {"hlo_op": name, "hlo_module": module} if module else {}
    where = {"ph": "X", "pid": pid, "tid": tid, "ts": ts, "dur": dur}
    return {**where, "name": name, "args": {**told, **args}}


def line(name, pid, tid):
    return {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}


def test_what_is_inside_an_event_is_not_its_own():
    events = [
        event("add", 11e6, 1e6),
        event("loop", 0, 10e6),
        event("inner", 1e6, 4e6),
        event("mul", 2e6, 1e6),
        event("mul", 6e6, 2e6),
    ]
    assert own_seconds(events, "jit_f") == {"loop": 4.0, "inner": 3.0, "mul": 3.0, "add": 1.0}


def test_events_that_only_touch_are_side_by_side():
    events = [event("a", 0, 1e6), event("b", 1e6, 1e6), event("c", 2e6, 1e6)]
    assert own_seconds(events, "jit_f") == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_the_body_of_a_loop_may_be_on_another_thread():
    events = [event("loop", 0, 10e6, tid=1), event("add", 1e6, 8e6, tid=2)]
    assert own_seconds(events, "jit_f") == {"loop": 2.0, "add": 8.0}


def test_what_runs_at_the_same_time_takes_no_longer_than_both():
    events = [event("a", 0, 10e6, tid=1), event("b", 5e6, 10e6, tid=2)]
    events += [event("c", 12e6, 1e6, tid=1), event("d", 16e6, 1e6, tid=1)]
    assert own_seconds(events, "jit_f") == {"a": 5.0, "b": 9.0, "c": 1.0, "d": 1.0}


def test_other_programs_do_not_count():
    events = [event("a", 0, 3e6), event("b", 5e6, 1e6)]
    events += [event("c", 0, 9e6, module="jit_g"), {"ph": "X", "pid": 1, "tid": 1, "name": "host"}]
    assert own_seconds(events, "jit_f") == {"a": 3.0, "b": 1.0}


def test_several_devices_give_their_mean():
    events = [event("a", 0, 3e6, pid=7, module="jit_f(3)"), event("a", 0, 1e6, pid=8)]
    assert own_seconds(events, "jit_f") == {"a": 2.0}
    events = [event("a", 0, 3e6, device_ordinal=0), event("a", 4e6, 1e6, device_ordinal=1)]
    assert own_seconds(events, "jit_f") == {"a": 2.0}


def test_a_line_of_instructions_is_taken_for_the_streams_below_it():
    lines = [line("XLA Ops", 3, 1), line("Stream #1", 3, 2)]
    ops = [event("fusion.1", 0, 2e6, pid=3, tid=1, module="")]
    kernels = [event("fusion.1", 0, 2e6, pid=3, tid=2)]
    assert own_seconds([*lines, *kernels, *ops], "jit_f") == {"fusion.1": 2.0}


def test_a_trace_is_recorded_and_read(tmp_path):
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((64, 64))
    jax.block_until_ready(product(x))
    first = recorded(
        lambda: jax.block_until_ready(product(x)), tmp_path, "jit__lambda", shown=False
    )
    assert sum(first.seconds.values()) > 0
    assert not first.full
    assert json.loads(gzip.decompress(first.file.read_bytes()))["traceEvents"]


def test_a_trace_that_tells_nothing_of_the_program_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names no instruction"):
        recorded(lambda: None, tmp_path, "jit_other", shown=False)


@fn.layer
def part(p, x):
    return fn.relu(fn.dense(p["conv"], x, 4))


@fn.layer
def net(p, x):
    x = fn.repeat(part, 2)(p["parts"], x)
    with jax.named_scope("mine"):
        return fn.remat(part)(p["again"], x).sum()


def places():
    model = fn.Model(net)
    x = jnp.ones((3, 4))
    traced = jax.make_jaxpr(jax.value_and_grad(model))(model.shapes(x)[0], x)
    return Places(tally(traced.jaxpr, "cpu").layers)


NAMES = [
    ("jit(step)/jvp(net)/add", ("net", "", "net"), False),
    ("jit(step)/jvp(net)/while/body/closed_call/parts/conv/dot_general", "parts.conv", False),
    ("jit(step)/transpose(jvp(net))/while/body/parts/conv/dot_general", "parts.conv", True),
    ("transpose(jvp(net))/jvp(net)/checkpoint/rematted_computation/again/add", "again", True),
    ("jit(step)/jvp(net)/mine/again/conv/transpose()/mul", "again.conv", False),
    ("jit(step)/jvp(net)/parts/jit(relu)/max", "parts", False),
    ("jit(step)/jit(net)/add", OUTSIDE, False),
    ("jit(step)/transpose(jvp())/mul", OUTSIDE, True),
    ("", OUTSIDE, False),
]


@pytest.mark.parametrize(("name", "expected", "backward"), NAMES)
def test_a_name_is_read_along_the_layers(name, expected, backward):
    spot = places().spot(name)
    assert spot.backward == backward
    assert (spot.key[1] if isinstance(expected, str) else spot.key) == expected
    assert spot.key[0] in ("net", "")
