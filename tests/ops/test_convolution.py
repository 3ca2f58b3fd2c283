"""The tuned convolution against its plain form, PyTorch, and everything JAX does to a function."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from uses import USES, assert_near, pulled_back

from funnet.ops.convolution import _depthwise_forms, convolution, plain_convolution
from funnet.ops.narrow import columns_gradient, folded_convolution
from funnet.ops.pooling import max_pool


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution: shapes and settings, and arrays drawn for them."""

    batch: int
    sizes: tuple[int, ...]
    channels: int
    features: int
    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def arrays(self, seed=0, dtype=np.float32):
        """x, kernel, and a cotangent for the output."""
        rng = np.random.default_rng(seed)
        kernel = (*self.window, self.channels // self.groups, self.features)
        shapes = (self.batch, *self.sizes, self.channels), kernel, self.output()
        return [rng.normal(size=shape).astype(dtype) for shape in shapes]

    def output(self):
        spatial = [
            (size + sum(pad) - (w - 1) * d - 1) // s + 1
            for size, pad, w, d, s in zip(
                self.sizes, self.pads, self.window, self.dilation, self.stride, strict=True
            )
        ]
        return self.batch, *spatial, self.features

    def of(self, function):
        return functools.partial(
            function,
            stride=self.stride,
            pads=self.pads,
            dilation=self.dilation,
            groups=self.groups,
        )


def drawn(seed):
    """A random case whose window fits; every third has groups, every fourth a size-1 axis."""
    rng = np.random.default_rng(seed)
    axes = seed % 3 + 1

    def each(low, high):
        return tuple(int(n) for n in rng.integers(low, high, axes))

    groups = int(rng.integers(1, 4)) if seed % 3 == 0 else 1
    channels, features = (int(rng.integers(1, 8)) * groups for _ in range(2))
    window, stride, dilation = each(1, 5), each(1, 4), each(1, 3)
    pads = tuple(zip(each(0, 3), each(0, 3), strict=True))
    sizes = [1 if seed % 4 == 0 and axis == 0 else int(rng.integers(1, 10)) for axis in range(axes)]
    for axis in range(axes):
        reach = (window[axis] - 1) * dilation[axis] + 1
        sizes[axis] = max(sizes[axis], reach - sum(pads[axis]))
    batch = int(rng.integers(1, 4))
    return Case(batch, tuple(sizes), channels, features, window, stride, pads, dilation, groups)


DRAWN = [drawn(seed) for seed in range(34)]
CHOSEN = {
    "few channels": Case(2, (7, 6), 3, 5, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "many channels": Case(2, (7, 6), 8, 5, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strided": Case(2, (9, 8), 6, 4, (3, 2), (2, 3), ((0, 1), (2, 0)), (1, 1)),
    "dilated": Case(2, (11,), 5, 4, (3,), (2,), ((3, 1),), (3,)),
    "three axes": Case(
        1, (4, 3, 5), 5, 2, (2, 2, 3), (1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1,) * 3
    ),
    "pointwise": Case(3, (4, 5), 6, 3, (1, 1), (2, 1), ((0, 0), (0, 0)), (1, 1)),
    "grouped": Case(2, (6, 6), 6, 4, (3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise": Case(2, (6, 7), 5, 5, (3, 2), (2, 1), ((1, 0), (1, 1)), (1, 2), 5),
    "two a channel": Case(2, (7,), 3, 6, (3,), (1,), ((2, 0),), (2,), 3),
    "folded by four": Case(2, (6, 13), 3, 6, (3, 5), (2, 1), ((1, 0), (0, 1)), (2, 1)),
    "folded by two": Case(2, (11,), 6, 9, (4,), (1,), ((2, 1),), (1,)),
    "in parts": Case(19, (9, 8), 7, 17, (3, 2), (1, 1), ((1, 1), (1, 0)), (1, 1)),
    "in equal parts": Case(24, (140,), 7, 18, (4,), (2,), ((2, 1),), (1,)),
    "rows left over": Case(1, (10, 10), 5, 3, (2, 2), (4, 3), ((0, 0), (0, 0)), (1, 1)),
}


def by_torch(case, x, kernel, cotangent):
    torch = pytest.importorskip("torch")
    x, kernel, cotangent = (torch.tensor(a, dtype=torch.float64) for a in (x, kernel, cotangent))
    x, kernel = x.movedim(-1, 1).requires_grad_(), kernel.movedim((-1, -2), (0, 1)).requires_grad_()
    padded = torch.nn.functional.pad(x, [n for pad in reversed(case.pads) for n in pad])
    function = getattr(torch.nn.functional, f"conv{len(case.sizes)}d")
    y = function(padded, kernel, None, case.stride, 0, case.dilation, case.groups)
    y.backward(cotangent.movedim(-1, 1))
    dx, dkernel = x.grad.movedim(1, -1), kernel.grad.movedim((0, 1), (-1, -2))
    return y.detach().movedim(1, -1).numpy(), dx.numpy(), dkernel.numpy()


@pytest.mark.parametrize("case", DRAWN, ids=range(len(DRAWN)))
def test_values_and_gradients_are_those_of_pytorch(case):
    arrays = case.arrays()
    found = jax.jit(functools.partial(pulled_back, case.of(convolution)))(*arrays)
    assert_near(found, by_torch(case, *arrays))


@pytest.mark.parametrize("name", ["in parts", "in equal parts"])
def test_the_kernels_gradient_in_parts_is_pytorch_s_and_one_loop(name):
    case = CHOSEN[name]
    arrays = case.arrays()
    back = jax.jit(functools.partial(pulled_back, case.of(convolution)))
    assert_near(back(*arrays), by_torch(case, *arrays))
    program = back.lower(*arrays).as_text()
    on_cpu = jax.default_backend() == "cpu"
    assert program.count("stablehlo.while") == on_cpu  # also after two transpositions
    assert program.count("stablehlo.convolution") == (4 if on_cpu else 3)


@pytest.mark.parametrize("name", ["strided", "dilated", "grouped"])
def test_the_plain_form_and_pytorch_agree_too(name):
    arrays = CHOSEN[name].arrays()
    found = jax.jit(functools.partial(pulled_back, CHOSEN[name].of(plain_convolution)))(*arrays)
    assert_near(found, by_torch(CHOSEN[name], *arrays))


COLUMNS = ("hessian-vector", "vmap over both")  # they differ in the kernel's


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("name", "use"),
    [
        *((name, use) for name in ("strided", "depthwise") for use in USES),
        *(("few channels", use) for use in COLUMNS),
        *(("folded by four", use) for use in USES),
        *(("in parts", use) for use in USES),
    ],
)
def test_it_may_be_transformed_as_the_plain_form_may(name, use):
    case = CHOSEN[name]

    @jax.jit
    def both(*arrays):
        return [USES[use](case.of(f), *arrays) for f in (convolution, plain_convolution)]

    assert_near(*both(*case.arrays()))


@pytest.mark.usefixtures("quick_compilation")
def test_a_whole_hessian():
    case = Case(1, (4,), 5, 2, (2,), (1,), ((1, 0),), (1,))
    x, kernel, _ = case.arrays()

    @jax.jit
    def both(kernel):
        forms = (convolution, plain_convolution)
        return [jax.hessian(lambda k, f=f: jnp.sin(case.of(f)(x, k)).sum())(kernel) for f in forms]

    assert_near(*both(kernel))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", CHOSEN)
def test_finite_differences_in_float64(name):
    with jax.enable_x64(True):
        case = CHOSEN[name]
        x, kernel, g = case.arrays(dtype=np.float64)
        dx, dkernel, _ = case.arrays(seed=1, dtype=np.float64)

        @jax.jit
        def along(t):
            return (jnp.sin(case.of(convolution)(x + t * dx, kernel + t * dkernel)) * g).sum()

        near, far = (along(h) - along(-h) for h in (1e-5, 2e-5))
        difference = (8 * near - far) / 12e-5  # of fourth order
        slopes = jax.jit(lambda t: (jax.grad(along)(t), jax.jvp(along, (t,), (1.0,))[1]))(0.0)
        np.testing.assert_allclose(slopes, difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", CHOSEN)
def test_nan_in_gives_nan_out(name):
    case = CHOSEN[name]
    x, kernel, g = case.arrays()
    x[0, ..., 0] = np.nan
    forms = (convolution, plain_convolution)
    found, expected = jax.jit(lambda *a: [pulled_back(case.of(f), *a) for f in forms])(x, kernel, g)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert np.isnan(found[0]).any()


@pytest.mark.parametrize("name", ["few channels", "folded by four", "folded by two"])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_plain_form(name):
    case = CHOSEN[name]
    forms = (convolution, plain_convolution)
    both = jax.jit(lambda *a: [pulled_back(case.of(f), *a) for f in forms])
    for seed, (which, value) in enumerate(itertools.product(range(3), (np.inf, np.nan))):
        arrays, rng = case.arrays(seed), np.random.default_rng(seed)
        for place in [-1, *rng.integers(0, arrays[which].size, 6)]:
            given = [a.copy() for a in arrays]
            given[which].ravel()[place] = value
            (y, dx, dkernel), (plain_y, plain_dx, plain_dkernel) = both(*given)
            np.testing.assert_allclose(y, plain_y, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(dkernel, plain_dkernel, rtol=1e-4, atol=1e-5)
            if which == 1:  # the plain one has kernel times padding, zero, which is NaN
                dx = np.where(np.isnan(plain_dx), np.nan, dx)
            np.testing.assert_allclose(dx, plain_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("fold", [2, 3, 4])
def test_every_fold_is_the_plain_form(fold):
    for seed in range(1, 6):
        case = dataclasses.replace(drawn(seed), groups=1)
        flat = {"stride": (*case.stride[:-1], 1), "dilation": (*case.dilation[:-1], 1)}
        row = 2 * fold + case.window[-1] - 1 - sum(case.pads[-1])  # two folded outputs
        case = dataclasses.replace(case, **flat, sizes=(*case.sizes[:-1], row))
        x, kernel, g = case.arrays()
        back = jax.vjp(functools.partial(case.of(plain_convolution), x), kernel)[1]
        how = (case.stride, case.pads, case.dilation)
        assert_near((columns_gradient(x, g, kernel.shape, *how, fold),), back(g))
        case = dataclasses.replace(case, sizes=(*case.sizes[:-1], row + fold // 2))  # a part left
        x, kernel, _ = case.arrays()
        plain = lambda x, k, pads: plain_convolution(x, k, case.stride, pads, case.dilation)  # noqa: E731, B023
        folded = folded_convolution(plain, x, kernel, case.pads, fold)
        assert_near((folded,), (case.of(plain_convolution)(x, kernel),))


@pytest.mark.parametrize("name", ["strided", "folded by four", "folded by two", "in parts"])
def test_it_is_linear_in_either_operand_to_jax_too(name):
    case = CHOSEN[name]
    x, kernel, g = case.arrays()
    for form in (convolution, jax.jit(convolution, static_argnums=(2, 3, 4, 5))):
        of = case.of(form)
        for k, operand in enumerate((x, kernel)):
            one = [lambda a: of(a, kernel), lambda a: of(x, a)][k]  # noqa: B023
            assert_near((one(operand),), (case.of(plain_convolution)(x, kernel),))
            back = jax.linear_transpose(one, operand)(g)
            assert_near(back, (pulled_back(case.of(plain_convolution), x, kernel, g)[1 + k],))


@pytest.mark.parametrize("name", ["folded by four", "in parts"])
def test_it_may_be_sharded(name):
    case = CHOSEN[name]
    x, kernel, g = case.arrays()
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, kernels = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    parts = jax.shard_map(
        functools.partial(pulled_back, case.of(convolution)),
        mesh=mesh,
        in_specs=(batch, kernels, batch),
        out_specs=(batch, batch, kernels),
        check_vma=False,
    )
    whole = pulled_back(case.of(plain_convolution), x, kernel, g)
    assert_near(jax.jit(parts)(x, kernel, g), whole)
    forward = jax.shard_map(
        case.of(convolution), mesh=mesh, in_specs=(batch, kernels), out_specs=batch
    )
    assert_near((jax.jit(forward)(x, kernel),), whole[:1])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, jnp.bfloat16) for name in ("strided", "few channels", "pointwise", "grouped")]
    + [
        ("in parts", jnp.bfloat16),
        ("strided", jnp.float16),
        ("depthwise", jnp.float16),
        ("two a channel", jnp.bfloat16),
    ],
)
def test_half_precision_stays_half(name, dtype):
    case = CHOSEN[name]
    x, kernel, g = case.arrays()
    half = [jnp.asarray(a, dtype) for a in (x, kernel, g)]
    found = jax.jit(functools.partial(pulled_back, case.of(convolution)))(*half)
    assert all(a.dtype == dtype for a in found)
    assert_near(found, by_torch(case, x, kernel, g), tolerance=0.02)


def test_a_depthwise_sum_of_half_precision_loses_nothing():
    x = jnp.full((1, 64, 2), 0.125, jnp.bfloat16).at[:, 0].set(64)
    kernel = jnp.ones((64, 1, 2), jnp.bfloat16)
    tuned, _ = _depthwise_forms((1,), ((0, 0),), (1,))  # by itself: compiled, XLA may widen too
    np.testing.assert_array_equal(tuned(x, kernel), 72)


def test_a_large_depthwise_window_takes_the_plain_form():
    case = Case(1, (70,), 2, 4, (65,), (1,), ((1, 0),), (1,), 2)
    arrays = case.arrays()
    assert "convolution" in jax.jit(case.of(convolution)).lower(*arrays[:2]).as_text()
    assert_near(pulled_back(case.of(convolution), *arrays), by_torch(case, *arrays))


# One program for every platform, and the fast one on the CPU.


def step(case, pool=None):
    """Two steps of gradient descent on the kernel, in a scan."""

    def loss(kernel, x, g):
        y = case.of(convolution)(x, kernel)
        return jnp.square(y if pool is None else max_pool(y, pool, pool, ((0, 0),) * 2)).sum()

    def steps(x, kernel, g):
        def body(kernel, _):
            return kernel - 1e-3 * jax.grad(loss)(kernel, x, g), None

        return lax.scan(body, kernel, None, length=2)[0]

    return jax.jit(steps)


@pytest.mark.parametrize("platforms", [("cuda",), ("tpu",), ("cpu", "cuda", "tpu")], ids="-".join)
@pytest.mark.parametrize("name", ["strided", "folded by four", "grouped", "depthwise"])
def test_it_exports_for_other_platforms(name, platforms):
    arrays = CHOSEN[name].arrays()
    program = step(CHOSEN[name])
    exported = jax.export.export(program, platforms=platforms)(*arrays)
    assert "convolution" in exported.mlir_module()
    tuned = "concatenate" in exported.mlir_module()  # of the windows laid out
    assert tuned == ("cpu" in platforms and name == "folded by four")
    if "cpu" in platforms:
        assert_near(exported.call(*arrays), program(*arrays))


@pytest.mark.parametrize("name", ["few channels", "many channels"])
def test_the_compiled_step_keeps_to_canonical_convolutions(name):
    case = dataclasses.replace(CHOSEN[name], sizes=(8, 8))
    text = step(case, pool=(2, 2)).lower(*case.arrays()).compile().as_text()
    assert "select-and-scatter" not in text
    layouts = re.findall(r"dim_labels=(\S+?)[,\s]", text)
    assert layouts
    assert set(layouts) <= {"b01f_01io->b01f"}, layouts


def test_an_eager_folded_one_is_compiled_once(caplog):
    case = CHOSEN["folded by four"]
    x, kernel, _ = case.arrays()
    x = np.concatenate([x, x, x])  # of a shape that no other test has
    with jax.log_compiles():
        for _ in range(3):
            jax.block_until_ready(case.of(convolution)(x, kernel))
    compiled = [r.message for r in caplog.records if "XLA compilation of jit(bound)" in r.message]
    assert len(compiled) <= 1, compiled
