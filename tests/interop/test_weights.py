"""Weights in and out by names and shapes alone, without PyTorch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_net import MODEL, TENSORS, X, but, draws

import funnet as fn
from funnet.interop import from_torch, to_torch, untransposed

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tree(**leaves):
    """A tree of shapes, from one leaf for each dotted path with underscores."""
    shaped = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in leaves.items()}
    return {"m": shaped}


# What comes in.


def test_parameters_and_state_stand_where_the_model_wants_them():
    params, state = from_torch(MODEL, TENSORS, like=X)
    np.testing.assert_array_equal(params["head"]["kernel"], TENSORS["head.weight"].T)
    np.testing.assert_array_equal(params["norm"]["scale"], TENSORS["norm.weight"])
    np.testing.assert_array_equal(state["norm"]["mean"], TENSORS["norm.running_mean"])
    np.testing.assert_array_equal(state["norm"]["var"], TENSORS["norm.running_var"])
    chex.assert_trees_all_equal_shapes((params, state), MODEL.shapes(X))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((params, state)))


@pytest.mark.parametrize("like", [X, (X,), jax.ShapeDtypeStruct(X.shape, X.dtype)])
def test_inputs_may_be_arrays_or_shapes(like):
    chex.assert_trees_all_equal(
        from_torch(MODEL, TENSORS, like=like), from_torch(MODEL, TENSORS, like=MODEL.shapes(X))
    )


def test_parameters_alone_give_parameters_alone():
    model, tensors = fn.Model(fn.dense, features=2), {"weight": draws(2, 3), "bias": draws(2)}
    params = from_torch(model, tensors, like=model.shapes(draws(1, 3))[0])
    assert sorted(params) == ["bias", "kernel"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_leaves_take_the_dtypes_of_like(dtype):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), MODEL.shapes(X))
    params, state = from_torch(MODEL, TENSORS, like=like)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(params["head"]["bias"], TENSORS["head.bias"].astype(dtype))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: x.astype("bfloat16")])
def test_a_file_is_as_good_as_a_mapping(tmp_path, kind):
    tensors = {name: np.asarray(kind(x)) for name, x in TENSORS.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        chex.assert_trees_all_equal(
            from_torch(MODEL, path, like=X), from_torch(MODEL, tensors, like=X)
        )


def test_jax_arrays_and_bfloat16_come_in():
    tensors = {name: jnp.asarray(x, jnp.bfloat16) for name, x in TENSORS.items()}
    params, _ = from_torch(MODEL, tensors, like=X)
    assert params["head"]["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(params["head"]["bias"], tensors["head.bias"])


def test_unusual_numbers_come_through():
    bias = np.float32([np.nan, -np.inf])
    params, _ = from_torch(MODEL, but(head_bias=bias), like=X)
    np.testing.assert_array_equal(params["head"]["bias"], bias)


def test_matrices_kept_the_other_way_round_are_transposed_first():
    other = {**TENSORS, "head.weight": TENSORS["head.weight"].T}
    for pattern in ("head", "h*d", "head.weight", "*.weight"):
        tensors = untransposed(other, pattern)
        chex.assert_trees_all_equal(
            from_torch(MODEL, tensors, like=X), from_torch(MODEL, TENSORS, like=X)
        )
    with pytest.raises(ValueError, match=r"'heat' matches nothing.*head"):
        untransposed(other, "heat")


# Names.


def test_a_rename_may_name_our_leaf():
    tensors = {"pos_embed": draws(5, 3), "proj.weight": draws(3, 3)}
    names = {"pos_embed": "positions.table", "proj.weight": "out.kernel"}
    like = {
        "positions": {"table": jnp.zeros((5, 3))},
        "out": {"kernel": jnp.zeros((3, 3))},
    }
    params = from_torch(MODEL, tensors, like=like, names=names)
    np.testing.assert_array_equal(params["positions"]["table"], tensors["pos_embed"])
    np.testing.assert_array_equal(params["out"]["kernel"], tensors["proj.weight"].T)


def test_names_that_become_one_must_be_equal():
    like, names = {"tokens": {"table": jnp.zeros((5, 3))}}, {"head": "tokens"}
    tensors = {"tokens.weight": draws(5, 3), "head.weight": draws(5, 3)}
    assert from_torch(MODEL, tensors, like=like, names=names)
    tensors["head.weight"] = draws(5, 3, seed=1)
    with pytest.raises(ValueError, match=r"'tokens\.weight' and 'head\.weight' are both named"):
        from_torch(MODEL, tensors, like=like, names=names)


def test_a_head_that_repeats_the_embedding_is_no_surplus():
    like, table = {"tokens": {"table": jnp.zeros((5, 3))}}, draws(5, 3)
    params = from_torch(MODEL, {"tokens.weight": table, "head.weight": table}, like=like)
    np.testing.assert_array_equal(params["tokens"]["table"], table)
    with pytest.raises(ValueError, match=r"surplus: head\.weight"):
        from_torch(MODEL, {"tokens.weight": table, "head.weight": table + 1}, like=like)


def test_what_is_left_out_is_no_surplus():
    tensors = {**TENSORS, "mask": np.ones((5, 5))}
    with pytest.raises(ValueError, match="surplus: mask"):
        from_torch(MODEL, tensors, like=X)
    assert from_torch(MODEL, tensors, like=X, names={"mask": None})
    assert from_torch(MODEL, tensors, like=X, names=lambda n: None if n == "mask" else n)


# Repeats, told from trees alone.


def test_an_index_that_a_path_lacks_counts_turns():
    tensors = {f"blocks.{i}.weight": draws(2, 3, seed=i) for i in range(4)}
    like = {"blocks": {"kernel": jnp.zeros((4, 3, 2))}}
    kernel = from_torch(MODEL, tensors, like=like)["blocks"]["kernel"]
    for i in range(4):
        np.testing.assert_array_equal(kernel[i], tensors[f"blocks.{i}.weight"].T)


def test_an_index_that_a_path_has_counts_none():
    tensors = {f"blocks.{i}.weight": draws(2, 3, seed=i) for i in range(2)}
    like = {"blocks": {str(i): {"kernel": jnp.zeros((3, 2))} for i in range(2)}}
    kernel = from_torch(MODEL, tensors, like=like)["blocks"]["1"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["blocks.1.weight"].T)


def test_too_many_turns_are_surplus_and_too_few_missing():
    tensors = {f"blocks.{i}.weight": draws(2, 3) for i in range(3)}
    with pytest.raises(ValueError, match=r"surplus: blocks\.2\.weight"):
        from_torch(MODEL, tensors, like={"blocks": {"kernel": jnp.zeros((2, 3, 2))}})
    with pytest.raises(ValueError, match=r"missing: blocks\.3\.kernel \(3, 2\)"):
        from_torch(MODEL, tensors, like={"blocks": {"kernel": jnp.zeros((4, 3, 2))}})


def test_indices_that_may_count_either_are_refused():
    tensors = {f"b.{i}.{j}.weight": draws(2) for i in range(2) for j in range(2)}
    like = {"b": {str(i): {"scale": jnp.zeros((2, 2))} for i in range(2)}}
    with pytest.raises(ValueError, match=r"open which index.*'b\.0\.scale'.*inputs as like"):
        from_torch(MODEL, tensors, like=like)


# Convolutions and transposed ones, told by shapes where layers are unknown.


def test_a_kernel_is_a_convolutions_unless_it_fits_only_as_transposed():
    square = from_torch(MODEL, {"m.weight": draws(4, 4, 3)}, like=tree(kernel=(3, 4, 4)))
    np.testing.assert_array_equal(square["m"]["kernel"], np.moveaxis(draws(4, 4, 3), 2, 0).mT)
    other = from_torch(MODEL, {"m.weight": draws(4, 5, 3)}, like=tree(kernel=(3, 4, 5)))
    np.testing.assert_array_equal(other["m"]["kernel"], np.moveaxis(draws(4, 5, 3), 2, 0))


@fn.layer
def bare(p, x):
    """Layers in a scope that is another's, so that nobody knows of which kind they are."""
    up = fn.layer(lambda p, x, width: fn.conv_transpose(p, x, width, 3))
    return up(p["b"], up(p["a"], x, 4), 5)


@pytest.mark.parametrize("inputs", [True, False])
def test_where_both_would_fit_beside_a_transposed_one_it_is_refused(inputs):
    tensors = {"a.weight": draws(4, 4, 3), "b.weight": draws(4, 5, 3)}
    tensors |= {"a.bias": draws(4), "b.bias": draws(5)}
    model, x = fn.Model(bare), draws(1, 5, 4)
    with pytest.raises(ValueError, match=r"open whether a\.kernel.*(inputs|scope of its own)"):
        from_torch(model, tensors, like=x if inputs else model.shapes(x))


# Recurrent layers and attention, by names.

PLACES = {
    (): "_l0",
    ("forward",): "_l0",
    ("backward",): "_l0_reverse",
    ("layer0",): "_l0",
    ("layer12",): "_l12",
    ("layer1", "forward"): "_l1",
    ("layer1", "backward"): "_l1_reverse",
}


def at(path, leaves):
    for name in reversed(("rnn", *path)):
        leaves = {name: leaves}
    return leaves


@pytest.mark.parametrize(("path", "end"), [*PLACES.items(), ((), "")], ids=str)
@pytest.mark.parametrize("gates", [1, 3, 4])
def test_recurrent_layers(path, end, gates):
    size = 2 * gates
    shapes = {"weight_ih": (size, 3), "weight_hh": (size, 2), "bias_ih": (size,)}
    shapes["bias_hh"] = (size,)
    tensors = {f"rnn.{n}{end}": draws(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}
    w, u, b, c = tensors.values()
    leaves = {"input_kernel": w.T, "hidden_kernel": u.T}
    leaves |= {"bias": b, "hidden_bias": c} if gates == 3 else {"bias": b + c}
    like = at(path, {name: jnp.zeros(x.shape) for name, x in leaves.items()})
    params = from_torch(MODEL, tensors, like=like)
    chex.assert_trees_all_equal(params, at(path, leaves))
    chex.assert_trees_all_equal(
        from_torch(MODEL, to_torch(MODEL, params, like=tensors), like=like), params
    )


# What goes out.


def test_arrays_are_named_ordered_and_shaped_as_like():
    trees = from_torch(MODEL, TENSORS, like=X)
    back = to_torch(MODEL, *trees, like=TENSORS)
    assert list(back) == list(TENSORS)
    for name, x in TENSORS.items():
        np.testing.assert_array_equal(back[name], x)
        assert back[name].flags.writeable
        assert back[name].flags.c_contiguous


def test_shapes_are_enough_and_batches_are_then_counted_from_zero():
    like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in TENSORS.items()}
    back = to_torch(
        MODEL,
        *from_torch(MODEL, TENSORS, like=X),
        like={**like, "mask": X[0]},
        names={"mask": None},
    )
    assert back["norm.num_batches_tracked"] == 0
    assert back["norm.num_batches_tracked"].dtype == np.int64
    np.testing.assert_array_equal(back["mask"], X[0])


def test_bfloat16_goes_out_as_float32_and_comes_back():
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16"), MODEL.shapes(X))
    trees = from_torch(MODEL, TENSORS, like=like)
    back = to_torch(MODEL, *trees, like=TENSORS)
    assert back["head.weight"].dtype == np.float32
    chex.assert_trees_all_equal(from_torch(MODEL, back, like=like), trees)


def test_tied_heads_go_out_twice():
    table, params = draws(5, 3), {"tokens": {"table": draws(5, 3, seed=1)}}
    like = {"tokens.weight": table, "head.weight": table}
    back = to_torch(MODEL, params, like=like)
    np.testing.assert_array_equal(back["head.weight"], params["tokens"]["table"])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in like.items()}
    with pytest.raises(ValueError, match=r"missing: head\.weight"):
        to_torch(MODEL, params, like=shapes)
    named = to_torch(MODEL, params, like=shapes, names={"head": "tokens"})
    np.testing.assert_array_equal(named["head.weight"], params["tokens"]["table"])


def test_what_does_not_go_out_is_listed():
    params, state = from_torch(MODEL, TENSORS, like=X)
    like = but(head_weight=draws(3, 4), head_bias=None, tail_bias=draws(2))
    with pytest.raises(ValueError, match="does not fit the names and shapes of like") as error:
        to_torch(MODEL, params, state, like=like)
    _, missing, surplus, misshapen = str(error.value).splitlines()
    assert missing == "  missing: tail.bias (nearest: head.bias)"
    assert surplus == "  surplus: head.bias (2,) (PyTorch: head.bias)"
    assert misshapen.startswith("  misshapen: head.weight (3, 4) from head.kernel (4, 2)")


def test_trees_must_be_those_of_the_inputs():
    params, state = from_torch(MODEL, TENSORS, like=X)
    params["head"]["bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"'head\.bias' has shape \(3,\), expected \(2,\)"):
        to_torch(MODEL, params, state, X, like=TENSORS)
