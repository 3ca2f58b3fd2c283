"""Reading compiled programs: bytes against XLA's analysis, names, and other platforms' text."""

import jax
import jax.numpy as jnp
import pytest

from funnet.profiling.compiled import Compiled
from funnet.profiling.naming import scopes


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def both(function, *args):
    program = compiled(function, *args)
    return Compiled(program.as_text()).bytes(), program.cost_analysis()["bytes accessed"]


def layers(w, x):
    for _ in range(3):
        x = jax.nn.relu(x @ w)
    return (x**2).sum()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jnp.matmul, [(64, 32), (32, 16)]),
        (lambda x, y: jnp.tanh(x + y) * 2.0, [(100,), (100,)]),
        (jax.grad(layers), [(128, 128), (64, 128)]),
        (lambda x: jnp.concatenate([x[:3], x[7:]]), [(10, 50)]),
    ],
)
def test_without_loops_bytes_are_those_that_xla_counts(function, shapes):
    ours, theirs = both(function, *(jnp.ones(shape) for shape in shapes))
    assert 0.9 * theirs <= ours <= 1.1 * theirs


def turns(n):
    return lambda x, w: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, n)[0]


def test_the_bytes_of_a_loop_count_as_often_as_it_turns():
    x, w = jnp.ones((32, 64)), jnp.ones((64, 64))
    few, many, more = (both(turns(n), x, w)[0] for n in (10, 20, 40))
    assert more - many == 2 * (many - few)
    assert (many - few) / 10 >= 4 * (32 * 64 + 64 * 64 + 32 * 64)


def test_of_stacked_parameters_a_turn_reads_its_own():
    x, w = jnp.ones((8, 64)), jnp.ones((50, 64, 64))

    def stacked(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    ours = both(stacked, x, w)[0]
    assert w.nbytes <= ours <= 5 * w.nbytes


def test_a_stack_of_outputs_is_written_turn_by_turn():
    x = jnp.ones((64, 64))

    def kept(x):
        return jax.lax.scan(lambda x, _: (x * 0.5, x + 1.0), x, None, 50)[1]

    assert both(kept, x)[0] <= 10 * 50 * x.nbytes


def test_instructions_have_the_names_of_the_traced_program():
    def named(x, w):
        with jax.named_scope("here"):
            return jnp.tanh(x @ w)

    program = Compiled(compiled(named, jnp.ones((4, 4)), jnp.ones((4, 4))).as_text())
    assert any("/here/" in scope for scope in scopes(program).values())


TEXT = """\
HloModule jit_f, entry_computation_layout={(f32[8]{0}, bf16[2,3]{1,0:T(8,128)})->f32[8]{0}}

%fused (param_0: f32[8], param_1: s32[]) -> f32[2] {
  %param_0 = f32[8]{0} parameter(0)
  %param_1 = s32[] parameter(1)
  %part = f32[2]{0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={2}
  ROOT %neg = f32[2]{0} negate(%part), metadata={op_name="jit(f)/net/neg"}
}

%body (p: (f32[8], s32[])) -> (f32[8], s32[]) {
  %p = (f32[8]{0}, /*index=1*/s32[]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=0
  %i = s32[] get-tuple-element(%p), index=1
  %copy.1 = f32[8]{0} copy(%x)
  %small = f32[2]{0} fusion(%copy.1, %i), kind=kLoop, calls=%fused
  ROOT %out = (f32[8]{0}, s32[]) tuple(%copy.1, %i)
}

%condition (p.1: (f32[8], s32[])) -> pred[] {
  %p.1 = (f32[8]{0}, s32[]) parameter(0)
  ROOT %no = pred[] constant(false)
}

ENTRY %main (a: f32[8], b: bf16[2,3]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = bf16[2,3]{1,0:T(8,128)} parameter(1)
  %zero = s32[] constant(0)
  %wide = f32[2,3]{1,0} convert(%b), metadata={op_name="jit(f)/jit(g)"}
  %start = (f32[8]{0}, s32[]) tuple(%a, %zero)
  %loop = (f32[8]{0}, s32[]) while(%start), condition=%condition, body=%body, TURNS
  ROOT %last = f32[8]{0} get-tuple-element(%loop), index=0
}
"""
TOLD = 'backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}'


def test_a_text_by_hand():
    copied, fused = 2 * 8 * 4, 2 * 2 * 4 + 4  # the slice read, the result, and the index
    wide = 6 * 2 + 6 * 4
    assert Compiled(TEXT.replace("TURNS", TOLD)).bytes() == wide + 5 * (copied + fused)
    assert Compiled(TEXT.replace(", TURNS", "")).bytes() == wide + copied + fused


def test_what_has_no_name_has_that_of_its_parts_or_of_its_readers():
    named = scopes(Compiled(TEXT))
    assert named["small"] == named["copy.1"] == "jit(f)/net/neg"
    assert named["wide"] == ""  # it has but the name of a function, and nothing reads it


def test_text_without_percent_signs_reads_alike():
    text = TEXT.replace("%", "").replace("TURNS", TOLD)
    assert Compiled(text).bytes() == Compiled(TEXT.replace("TURNS", TOLD)).bytes()
