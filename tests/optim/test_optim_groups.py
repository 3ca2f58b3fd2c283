"""Groups, multipliers and decay by path: PyTorch's parameter groups, and every refusal."""

import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funnet as fn
from funnet.optim.paths import merged, paths, split

RNG = np.random.default_rng(0)
SHAPES = {
    "trunk": {"dense": {"bias": (3,), "kernel": (4, 3)}, "norm": {"bias": (3,), "scale": (3,)}},
    "blocks": {"dense": {"bias": (2, 3), "kernel": (2, 3, 3)}, "norm": {"scale": (2, 3)}},
    "tokens": {"table": (5, 3)},
    "head": {"bias": (2,), "kernel": (3, 2)},
}


def drawn():
    shapes, tree = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    return tree.unflatten([jnp.asarray(RNG.normal(size=s), jnp.float32) for s in shapes])


PARAMS, GRADIENTS = drawn(), [drawn() for _ in range(4)]


def trained(optimizer, params=PARAMS, gradients=GRADIENTS):
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
    return params


def close(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), found, expected
    )


def in_torch(make, groups):
    """PyTorch's optimizer over groups `(settings, paths)`, on the same gradients."""
    torch = pytest.importorskip("torch")
    leaves, tree = jax.tree.flatten(PARAMS)
    named = dict(zip(paths(PARAMS), [torch.tensor(np.array(x)) for x in leaves], strict=True))
    groups = [{"params": [named[p] for p in which], **how} for how, which in groups if which]
    optimizer = make(torch.optim, groups)
    for gradient in GRADIENTS:
        for tensor, g in zip(named.values(), jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(np.array(g))
        optimizer.step()
    return tree.unflatten([x.numpy() for x in named.values()])


def test_groups_with_decay_are_torch_s_parameter_groups():
    def which(head, decays):
        return [
            p
            for p in paths(PARAMS)
            if p.startswith("head") == head and p.endswith(("kernel", "table")) == decays
        ]

    expected = in_torch(
        lambda optim, groups: optim.AdamW(groups),
        [
            ({"lr": 1e-2, "weight_decay": 0.1}, which(True, True)),
            ({"lr": 1e-2, "weight_decay": 0.0}, which(True, False)),
            ({"lr": 1e-3, "weight_decay": 0.3}, which(False, True)),
            ({"lr": 1e-3, "weight_decay": 0.0}, which(False, False)),
        ],
    )
    groups = {
        "head.*": fn.optim.adamw(1e-2, weight_decay=0.1),
        "*": fn.optim.adamw(1e-3, weight_decay=0.3),
    }
    close(trained(fn.optim.groups(groups)), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_and_decay_is_torch_s(nesterov):
    kernels = [p for p in paths(PARAMS) if p.endswith(("kernel", "table"))]
    rest = [p for p in paths(PARAMS) if p not in kernels]
    expected = in_torch(
        lambda optim, groups: optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov),
        [({"weight_decay": 0.2}, kernels), ({"weight_decay": 0.0}, rest)],
    )
    found = fn.optim.sgd(0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.2)
    close(trained(found), expected)


def test_multipliers_are_torch_s_learning_rates():
    def which(start):
        return [p for p in paths(PARAMS) if p.startswith(start)]

    expected = in_torch(
        lambda optim, groups: optim.SGD(groups, lr=0.1, momentum=0.9),
        [({"lr": 0.01}, which("trunk")), ({"lr": 0.2}, which("head")), ({}, which(("b", "tok")))],
    )
    factors = {"trunk.*": 0.1, "head.*": 2}
    close(trained(fn.optim.multiply(optax.sgd(0.1, momentum=0.9), factors)), expected)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(order=st.permutations(["head.*", "*.bias", "*"]))
def test_the_first_pattern_that_matches_takes_a_leaf(order):
    order = order[: order.index("*") + 1]
    rates = dict(zip(order, (1.0, 2.0, 4.0, 8.0), strict=False))
    found = trained(
        fn.optim.groups({p: optax.sgd(r) for p, r in rates.items()}), PARAMS, GRADIENTS[:1]
    )

    def expected(path, leaf):
        rate = next(r for p, r in rates.items() if fnmatch.fnmatchcase(path, p))
        return leaf * rate

    steps = jax.tree.map(jnp.subtract, PARAMS, found)
    by_path = dict(zip(paths(PARAMS), jax.tree.leaves(GRADIENTS[0]), strict=True))
    for path, step in zip(paths(PARAMS), jax.tree.leaves(steps), strict=True):
        np.testing.assert_allclose(step, expected(path, by_path[path]), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(chosen=st.lists(st.sampled_from(["head.*", "*.bias", "trunk.*", "*", "none"]), max_size=3))
def test_what_is_split_merges_again(chosen):
    kept, taken = split(PARAMS, chosen)
    assert jax.tree.leaves(merged(kept, taken)) == jax.tree.leaves(PARAMS)
    assert len(jax.tree.leaves(kept)) + len(jax.tree.leaves(taken)) == len(jax.tree.leaves(PARAMS))
    assert paths(kept) == paths(PARAMS) == paths(taken)


def test_decay_goes_by_name_also_in_stacked_blocks_and_models():
    mask = fn.optim.decayed(PARAMS)
    decayed = [p for p, on in zip(paths(PARAMS), jax.tree.leaves(mask), strict=True) if on]
    assert decayed == ["blocks.dense.kernel", "head.kernel", "tokens.table", "trunk.dense.kernel"]
    model = fn.Model(fn.models.gpt, vocab=5, width=8, depth=2, heads=2, context=6)
    shapes, _ = model.shapes(jnp.zeros((1, 4), jnp.int32))
    for path, on in zip(paths(shapes), jax.tree.leaves(fn.optim.decayed(shapes)), strict=True):
        assert on == path.endswith(("kernel", "table")), path


def test_a_kernel_of_parts_decays_as_one():
    tree = {"kernel": {"values": 1, "scale": 2}, "bias": (3, 4)}
    assert fn.optim.decayed(tree)["bias"] == (False, False)


def test_trees_other_than_dicts_have_paths_too():
    params = ({"w": jnp.ones(2)}, [jnp.ones(2)])
    found = trained(
        fn.optim.groups({"0.w": optax.sgd(1.0), "1.*": optax.sgd(0.5)}), params, [params]
    )
    close(found, ({"w": np.zeros(2)}, [np.full(2, 0.5)]))


def test_groups_in_groups_and_a_group_that_is_all_frozen():
    inner = fn.optim.groups({"*.bias": optax.sgd(1.0), "*": optax.adam(1.0)})
    optimizer = fn.optim.freeze(fn.optim.groups({"trunk.*": inner, "*": optax.sgd(0.1)}), "trunk.*")
    state = optimizer.init(PARAMS)
    assert not jax.tree.leaves(state)  # of Adam's slots none is there
    trainable, _ = optimizer.split(GRADIENTS[0])
    updates, _ = optimizer.update(trainable, state, optimizer.split(PARAMS)[0])
    assert paths(updates, masked=False) == [p for p in paths(PARAMS) if not p.startswith("trunk")]
    nested = fn.optim.groups({"head.*": optax.sgd(0.1), "*": inner})
    assert np.isfinite(jax.tree.leaves(trained(nested))[0]).all()


REFUSED = {
    "nothing": (lambda: {"heads.*": optax.sgd(1.0), "*": optax.sgd(1.0)}, ["heads.*", "head.bias"]),
    "a leaf that none takes": (
        lambda: {"*.bias": optax.sgd(1.0), "*.scale": optax.sgd(1.0)},
        ["trunk.dense.kernel", "tokens.table", '"*"'],
    ),
    "all taken before": (
        lambda: {"head.*": optax.sgd(1.0), "*": optax.sgd(1.0), "head.bias": optax.sgd(1.0)},
        ["'head.bias' gets nothing", "'head.*'", "first"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_patterns_that_do_not_fit_are_refused_at_init(case):
    make, words = REFUSED[case]
    optimizer = fn.optim.groups(make())
    for wrapped in (optimizer, optax.chain(optax.clip(1.0), optimizer)):
        with pytest.raises(ValueError, match=words[0].replace("*", r"\*")) as caught:
            wrapped.init(PARAMS)
        assert all(word in str(caught.value) for word in words), caught.value


def test_patterns_are_checked_when_a_run_is_started():
    optimizer = fn.optim.groups({"hidden.*": optax.sgd(1.0), "*": optax.sgd(1.0)})
    with pytest.raises(ValueError, match=r"'hidden\.\*' matches nothing.*kernel"):
        fn.Run.start(fn.Model(fn.dense, features=2), optimizer, jnp.ones((2, 3)))
    optimizer = fn.optim.multiply(optax.sgd(1.0), {"hidden.*": 0.1})
    with pytest.raises(ValueError, match=r"'hidden\.\*' matches nothing.*kernel"):
        fn.Run.start(fn.Model(fn.dense, features=2), optimizer, jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fn.optim.groups([optax.sgd(1.0)]), TypeError, r'groups takes a dict.*"head\.\*"'),
        (lambda: fn.optim.groups({}), TypeError, "groups takes a dict"),
        (
            lambda: fn.optim.groups({"*": 1e-3}),
            TypeError,
            r"'\*' needs an optax optimizer, got 0\.001",
        ),
        (
            lambda: fn.optim.groups({"*": fn.optim.freeze(optax.sgd(1.0), "head.*")}),
            ValueError,
            r"go outermost.*freeze\(fn\.optim\.groups",
        ),
        (lambda: fn.optim.multiply(optax.sgd(1.0), {"*": 0}), ValueError, r"0 < factor.*freeze"),
        (lambda: fn.optim.multiply(optax.sgd(1.0), {"*": "1"}), TypeError, "must be a number"),
        (lambda: fn.optim.multiply(optax.sgd(1.0), 0.1), TypeError, "multiply takes a dict"),
    ],
)
def test_what_makes_no_groups_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
