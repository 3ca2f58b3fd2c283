"""The table of all layers times a list of laws; and, for each law, a layer that breaks it.

Which laws bear on a layer is read off the layer: whether its input is floating point, whether its
parameters' shapes depend on the input's last axis, whether it has parameters or state at all.
"""

import functools
import itertools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import layer_table
import numpy as np
import pytest
from layer_table import TABLE, row

import funnet as fn
from funnet import initializers

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)
HALF = jnp.bfloat16


class Case:
    """A row of the table as a model, the layer at `it`, with its trees and input."""

    def __init__(self, row):
        self.row, self.x = row, jnp.asarray(row.x())
        self.floating = jnp.issubdtype(self.x.dtype, jnp.floating)
        self.model = fn.Model(fn.layer(lambda p, *inputs: row.call(p["it"], *inputs)))

    @property
    def inputs(self):
        return self.x, *self.row.more

    @functools.cached_property
    def trees(self):
        return self.model.init(KEY, *self.inputs)

    @functools.cached_property
    def trained(self):
        """The output and the next state of a training step."""
        return self.apply(*self.trees, *self.inputs, train=True, key=KEY)

    @functools.cached_property
    def evaluated(self):
        """Those of an evaluation, which is given no key."""
        return self.apply(*self.trees, *self.inputs)

    @functools.cached_property
    def draws(self):
        """Whether the layer cannot train without a key."""
        try:
            jax.eval_shape(
                functools.partial(self.model.apply, train=True), *self.trees, *self.inputs
            )
        except ValueError as error:
            return "key=" in str(error)
        return False

    @functools.cached_property
    def apply(self):
        return jax.jit(self.model.apply, static_argnames="train")


def cast(tree, dtype):
    """The floating-point leaves of a tree in another dtype."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def close(found, expected, tolerance=1e-5):
    chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)


# The laws.


def init_depends_on_key_and_shapes(case):
    other = case.model.init(KEY, jnp.asarray(case.row.x(seed=1)), *case.row.more)
    shape = case.model.init(KEY, *jax.tree.map(jax.typeof, case.inputs))
    chex.assert_trees_all_equal(case.trees, other, shape)


def a_sibling_changes_nothing(case):
    def siblings(p, *inputs):
        p["before"].param("w", (3,), initializers.uniform())
        y = case.row.call(p["it"], *inputs)
        fn.dropout(p["after"], jnp.ones(3), 0.5)
        return y

    model = fn.Model(fn.layer(siblings))
    params, state = model.init(KEY, *case.inputs)
    own, own_state = case.trees
    chex.assert_trees_all_equal((params.get("it"), state), (own.get("it"), own_state))
    if case.draws:
        close(model.apply(params, state, *case.inputs, train=True, key=KEY), case.trained)


def evaluation_leaves_state_alone(case):
    _, state = case.evaluated
    chex.assert_trees_all_equal(state, case.trees[1])


def training_keeps_structure_shapes_and_dtypes(case):
    output, state = case.trained
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.trees[1])
    chex.assert_trees_all_equal_shapes_and_dtypes(output, case.evaluated[0])


def jit_equals_eager(case):
    close(case.model.apply(*case.trees, *case.inputs, train=True, key=KEY), case.trained)


def vmap_over_keys_is_an_ensemble(case):
    keys = jax.random.split(jax.random.key(8), 2)

    @jax.jit
    def ensemble(keys, *inputs):
        trees = jax.vmap(lambda key: case.model.init(key, *inputs))(keys)
        return trees, jax.vmap(lambda trees, _: case.model.apply(*trees, *inputs)[0])(trees, keys)

    trees, outputs = ensemble(keys, *case.inputs)
    for i in (0, 1):
        own = case.model.init(keys[i], *case.inputs)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], trees), own, 1e-6)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], outputs), case.apply(*own, *case.inputs)[0])


def weighted(output):
    """A number that depends on every element of the output, each with a weight of its own."""
    leaves = [leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(output)]
    return sum((leaf * jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32))).sum() for leaf in leaves)


def every_parameter_has_a_gradient(case):
    params, state = case.trees

    def loss(params):
        return weighted(case.model.apply(params, state, *case.inputs, train=True, key=KEY)[0])

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(leaf).all()
        assert np.any(leaf != 0)


def half_in_gives_half_out(case):
    params, state = case.trees
    half = cast(params, HALF)
    expected = HALF if case.floating else jnp.float32
    for train, key in ((False, None), (True, KEY)):
        for tree, dtype in ((params, expected), (half, HALF)):
            output, after = jax.eval_shape(
                lambda p, s, *x, t=train, k=key: case.model.apply(p, s, *x, train=t, key=k),
                tree,
                state,
                *cast(case.inputs, HALF),
            )
            assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {jnp.dtype(dtype)}
            chex.assert_trees_all_equal_dtypes(after, state)
    close(cast(case.apply(half, state, *cast(case.inputs, HALF)), jnp.float32), case.evaluated, 0.1)


def a_wrong_width_names_path_and_shapes(case):
    wide = (jnp.concatenate([case.x, case.x], -1), *case.row.more)
    params, state = case.trees
    try:
        fits = jax.tree.all(
            jax.tree.map(lambda a, b: a.shape == b.shape, params, case.model.shapes(*wide)[0])
        )
    except ValueError:
        fits = False
    if fits:
        case.apply(params, state, *wide)
        return
    with pytest.raises(ValueError, match=r"'it\.") as caught:
        case.model.apply(params, state, *wide)
    shapes = set(re.findall(r"\(((?:\d+, )*\d+),?\)", str(caught.value)))
    stored = [", ".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(params)]
    assert len(shapes) == 2
    assert any(has.endswith(shape) for shape in shapes for has in stored)  # in a repeat, one turn's


def one_example_is_a_batch(case):
    alone, _ = case.apply(*case.trees, *(x[:1] for x in case.inputs))
    close(alone, jax.tree.map(lambda leaf: leaf[:1], case.evaluated[0]))


def gradients_are_finite_differences(case):
    with jax.enable_x64(True):
        params, state, x, *more = cast((*case.trees, *case.inputs), jnp.float64)
        rng = np.random.default_rng(0)
        arguments = (params, x) if case.floating else (params,)
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)

        @jax.jit
        def slopes(arguments, way):
            def along(t):
                params, x_ = jax.tree.map(lambda a, b: a + t * b, (*arguments,), way) + (
                    () if case.floating else (x,)
                )
                output, _ = case.model.apply(params, state, x_, *more)
                return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(output))

            return jax.grad(along)(0.0), (along(1e-5) - along(-1e-5)) / 2e-5

        np.testing.assert_allclose(*slopes(arguments, way), rtol=1e-6, atol=1e-8)


def padded(x, by, rng):
    """`x` with so many more steps of garbage."""
    shape = (x.shape[0], by, *x.shape[2:])
    more = rng.normal(size=shape) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(shape)
    return jnp.concatenate([x, 100 * jnp.asarray(more, x.dtype)], 1)


def padding_changes_nothing(case):
    """Neither what lies beyond a length nor how much of it: not in outputs, state or gradients."""
    if case.row.lengths is None:
        return
    (lengths,), rng, time = case.row.more, np.random.default_rng(0), case.x.shape[1]
    inside = np.arange(time) < lengths[:, None]

    def cut(leaf, size):
        """What lies within the lengths, of a leaf that has a time axis."""
        if leaf.ndim < 3 or leaf.shape[1] != size:
            return leaf
        return jnp.where(inside[(..., *[None] * (leaf.ndim - 2))], leaf[:, :time], 0)

    def results(params, state, x):
        def loss(params, x):
            output, after = case.model.apply(params, state, x, lengths, train=True, key=KEY)
            output = jax.tree.map(lambda leaf: cut(leaf, x.shape[1]), output)
            return weighted(output), (output, after)

        arguments = (0, 1) if case.floating else (0,)
        pull = jax.grad(loss, arguments, has_aux=True)
        gradients, kept = pull(params, x)
        return (*gradients[:1], *(cut(g, x.shape[1]) for g in gradients[1:])), kept

    expected = jax.jit(results)(*case.trees, case.x)
    same = inside[(..., *[None] * (case.x.ndim - 2))]
    other = jnp.where(same, case.x, padded(case.x[:, :0], time, rng))
    for x in (other, padded(case.x, 1, rng), padded(other, 5, rng)):
        close(jax.jit(results)(*case.trees, x), expected, 1e-6)


LAWS = [
    init_depends_on_key_and_shapes,
    a_sibling_changes_nothing,
    evaluation_leaves_state_alone,
    training_keeps_structure_shapes_and_dtypes,
    jit_equals_eager,
    vmap_over_keys_is_an_ensemble,
    every_parameter_has_a_gradient,
    half_in_gives_half_out,
    a_wrong_width_names_path_and_shapes,
    one_example_is_a_batch,
    gradients_are_finite_differences,
    padding_changes_nothing,
]


# Public functions of the layers' files that take no activations: nothing for the laws to hold of.
BESIDE_LAYERS = {"alibi_slopes", "sequence_mask"}


@functools.cache
def case_of(name):
    return Case(TABLE[name])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", TABLE)
def test_laws(name, law):
    law(case_of(name))


def test_every_public_layer_is_in_the_table():
    text = pathlib.Path(layer_table.__file__).read_text()
    modules = {name: getattr(x, "__module__", "") for name, x in vars(fn).items()}
    public = {name for name, module in modules.items() if module.startswith("funnet.layers.")}
    assert {n for n in public if not re.search(rf"fn\.{n}\b", text)} == BESIDE_LAYERS


# A law that cannot fail is none: layers that break them.

TIMES = itertools.count()


@fn.layer
def counts_its_calls(p, x):
    number = next(TIMES)
    return x * p.param("w", x.shape[-1:], lambda key, shape, dtype: jnp.full(shape, number, dtype))


@fn.layer
def moves_in_evaluation(p, x):
    p.update("seen", p.variable("seen", (), initializers.zeros) + 1)
    return x


@fn.layer
def draws_in_evaluation(p, x):
    return x + jax.random.normal(p.key(), x.shape, x.dtype)


@fn.layer
def sums_in_training(p, x):
    return x.sum(0) if p.train else x


@fn.layer
def knows_its_tracer(p, x):
    return x + isinstance(x, jax.core.Tracer)


@fn.layer
def has_a_spare_parameter(p, x):
    p.param("spare", (3,), initializers.ones)
    return x


@fn.layer
def has_no_slope_at_the_start(p, x):
    return x * jnp.sqrt(p.param("w", (1,), initializers.zeros)).astype(x.dtype)


@fn.layer
def widens(p, x):
    return x.astype(jnp.float32)


@fn.layer
def takes_any_width(p, x):
    try:
        return x * p.param("w", x.shape[-1:], initializers.ones)
    except ValueError:
        return x


@fn.layer
def refuses_without_a_word(p, x):
    if x.shape[-1] != 4:
        raise ValueError("bad input")
    return x * p.param("w", x.shape[-1:], initializers.ones)


@fn.layer
def mixes_the_batch(p, x):
    return x - x.mean(0)


@fn.layer
def has_half_a_gradient(p, x):
    return x * jax.lax.stop_gradient(x)


@fn.layer
def means_over_padding(p, x, lengths):
    return x - x.mean(1, keepdims=True)


PADDED = row(means_over_padding, 3, 4, 2, lengths=(4, 1, 3))

BREAKS = [
    (init_depends_on_key_and_shapes, counts_its_calls),
    (a_sibling_changes_nothing, counts_its_calls),
    (evaluation_leaves_state_alone, moves_in_evaluation),
    (evaluation_leaves_state_alone, draws_in_evaluation),
    (training_keeps_structure_shapes_and_dtypes, sums_in_training),
    (jit_equals_eager, knows_its_tracer),
    (vmap_over_keys_is_an_ensemble, counts_its_calls),
    (every_parameter_has_a_gradient, has_a_spare_parameter),
    (every_parameter_has_a_gradient, has_no_slope_at_the_start),
    (half_in_gives_half_out, widens),
    (a_wrong_width_names_path_and_shapes, takes_any_width),
    (a_wrong_width_names_path_and_shapes, refuses_without_a_word),
    (one_example_is_a_batch, mixes_the_batch),
    (gradients_are_finite_differences, has_half_a_gradient),
    (padding_changes_nothing, means_over_padding),
]


@pytest.mark.parametrize(("law", "layer"), BREAKS, ids=lambda f: f.__name__)
def test_every_law_can_fail(law, layer):
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        law(Case(row(layer, 3, 4) if layer is not means_over_padding else PADDED))


def test_every_law_has_a_layer_that_breaks_it():
    assert {law for law, _ in BREAKS} == set(LAWS)
