"""`save` and `load`: every bit comes back, what does not fit is named, damage is an error."""

import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, DATA, MODEL, STEP, assert_same, start

import funnet as fn

DTYPES = ["float32", "bfloat16", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tree.safetensors"


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 3), (1, 1)], ids=str)
def test_every_dtype_and_shape_comes_back(file, dtype, shape):
    draw = np.random.default_rng(0).integers(0, 100, shape)
    tree = {"it": jnp.asarray(draw).astype(dtype)}
    fn.save(file, tree)
    assert_same(fn.load(file), tree)
    assert_same(fn.load(file, like=tree), tree)
    assert_same(fn.load(file, like=jax.eval_shape(lambda: tree)), tree)


def test_unusual_numbers_come_back_to_the_bit(file):
    tree = {"it": np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028235e38])}
    fn.save(file, tree)
    assert_same(fn.load(file), tree)


@pytest.mark.parametrize("kind", [np.asfortranarray, lambda x: x[::-1].T[1:], lambda x: x.T])
def test_arrays_of_any_layout_come_back(file, kind):
    array = kind(np.arange(12, dtype=np.float32).reshape(3, 4))
    fn.save(file, {"it": array})
    np.testing.assert_array_equal(fn.load(file)["it"], array)


def test_a_tree_comes_back_as_nested_dicts(file):
    params, state = MODEL.init(jax.random.key(0), DATA["image"])
    fn.save(file, {"params": params, "state": state})
    assert_same(fn.load(file), {"params": params, "state": state})


def test_a_run_comes_back_and_goes_on_to_the_same_bits(file):
    step = jax.jit(STEP)
    run, _ = step(start(seed=3), BATCHES[0])
    fn.save(file, run)
    for like in (start(seed=9), jax.eval_shape(start), run):
        assert_same(fn.load(file, like=like), run)
    again = fn.load(file, like=start())
    assert isinstance(again, fn.Run)
    assert_same(step(again, BATCHES[1]), step(run, BATCHES[1]))


def test_names_are_dotted_paths(file):
    fn.save(file, start())
    stored = fn.load(file)
    assert stored.keys() == {"params", "state", "optimizer_state", "step", "seed"}
    assert stored["params"]["hidden"].keys() == {"kernel"}
    assert stored["optimizer_state"]["0"]["mu"]["norm"]["scale"].shape == (8,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jax.random.key(3),
        lambda: jax.random.split(jax.random.key(3), (2, 2)),
        lambda: jax.random.key(3, impl="rbg"),
        lambda: jax.random.key(3, impl="unsafe_rbg"),
    ],
    ids=["key", "keys", "rbg", "unsafe_rbg"],
)
def test_keys_come_back_as_keys(file, make):
    fn.save(file, {"key": make()})
    for like in ({"key": make()}, jax.eval_shape(lambda: {"key": make()})):
        again = fn.load(file, like=like)["key"]
        assert again.dtype == make().dtype
        np.testing.assert_array_equal(jax.random.key_data(again), jax.random.key_data(make()))
    assert fn.load(file)["key"].dtype == jnp.uint32


def test_any_pytree_comes_back_in_the_structure_of_like(file):
    tree = [jnp.ones(2), (jnp.zeros(3), None), {"mean": fn.metrics.Mean(jnp.ones(1), jnp.ones(1))}]
    fn.save(file, tree)
    assert_same(fn.load(file, like=tree), tree)
    bare = jnp.arange(3)
    fn.save(file, bare)
    assert_same(fn.load(file, like=bare), bare)


def test_trees_without_leaves_come_back(file):
    fn.save(file, {})
    assert fn.load(file) == fn.load(file, like={}) == {}
    tree = {"params": {"w": jnp.ones(2)}, "state": {}}
    fn.save(file, tree)
    assert_same(fn.load(file, like=tree), tree)


@pytest.mark.parametrize("name", ["ü / \n name", "a b", "0", "value", "*", "a" * 500])
def test_names_may_be_any_without_a_dot(file, name):
    tree = {name: jnp.arange(3), "other": {name: jnp.ones(2)}}
    fn.save(file, tree)
    assert_same(fn.load(file), tree)


def test_what_is_saved_cannot_change_it_later(file):
    array = np.ones(3, np.float32)
    fn.save(file, {"it": array})
    first = fn.load(file)
    array[:] = 2
    fn.save(file, {"it": array})
    assert first["it"].tolist() == [1, 1, 1]


def test_folders_are_made_and_paths_may_be_strings(tmp_path):
    path = tmp_path / "a" / "b" / "it.safetensors"
    fn.save(str(path), {"it": jnp.ones(1)})
    assert fn.load(str(path))["it"].shape == (1,)
    assert [p.name for p in path.parent.iterdir()] == ["it.safetensors"]


def test_a_name_alone_is_a_file_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fn.save("it.safetensors", {"it": jnp.ones(1)})
    assert (tmp_path / "it.safetensors").is_file()


@pytest.mark.skipif(os.name == "nt", reason="permissions are not of this kind there")
def test_a_file_is_as_private_as_other_files_are(file):
    old = os.umask(0o022)
    try:
        fn.save(file, {"it": jnp.ones(1)})
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


# What cannot be saved


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [("text", "<U4"), (object(), "object"), (np.ones(2, complex), "complex128"), (len, "object")],
    ids=["text", "object", "complex", "function"],
)
def test_what_is_no_array_of_numbers_is_refused_by_name(file, leaf, kind):
    fn.save(file, {"it": jnp.ones(1)})
    with pytest.raises(TypeError, match=rf"head\.it must be an array of numbers.*{kind}"):
        fn.save(file, {"head": {"it": leaf}})
    assert fn.load(file)["it"].shape == (1,)


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": np.ones(1), "a": {"b": np.ones(1)}},
        {"a": np.ones(1), "a.b": np.ones(1)},
        {"a": {"b": np.ones(1), "b.c": {"d": np.ones(1)}}},
        {"value": np.ones(1), "": np.ones(1)},
        {"__metadata__": np.ones(1)},
    ],
    ids=["same path", "leaf and branch", "deeper", "no name", "reserved"],
)
def test_names_that_could_not_come_back_are_refused(file, tree):
    with pytest.raises(ValueError, match=r"name|path"):
        fn.save(file, tree)
    assert not file.exists()


# What does not fit


def test_all_that_does_not_fit_is_listed(file):
    fn.save(file, {"a": np.ones(3), "c": np.ones(2, np.int32), "old": {"x": np.ones(1)}, "s": 1})
    like = {"a": np.ones((3, 1)), "c": np.ones(2, np.float32), "new": [np.ones(1), np.ones(1)]}
    with pytest.raises(ValueError, match="does not match the tree") as caught:
        fn.load(file, like=like)
    assert str(caught.value).startswith(str(file))
    missing, surplus, misshapen = str(caught.value).split("; ")[1:]
    assert missing == "missing: new.0, new.1"
    assert surplus == "surplus: old.x, s"
    assert misshapen == (
        "misshapen: a (stored float64[3], expected float64[3, 1]), "
        "c (stored int32[2], expected float32[2])"
    )


@pytest.mark.parametrize("changed", ["params", "state", "optimizer_state"])
def test_a_run_of_another_model_or_optimizer_is_refused(file, changed):
    fn.save(file, start())
    like = start().next(**{changed: {"w": jnp.ones(1)}})
    with pytest.raises(ValueError, match=rf"missing: {changed}\.w; surplus: {changed}\.") as caught:
        fn.load(file, like=like)
    assert "misshapen" not in str(caught.value)


def test_wide_numbers_are_not_narrowed_in_silence(file):
    fn.save(file, {"n": np.array([2**40, 1])})
    for like in (None, {"n": np.array([0, 0])}):
        with pytest.raises(ValueError, match="n is int64"):
            fn.load(file, like=like)


def test_python_numbers_come_back_through_like(file):
    fn.save(file, {"epoch": 3, "best": 0.5, "done": True})
    again = fn.load(file, like={"epoch": 0, "best": 0.0, "done": False})
    assert {name: x.item() for name, x in again.items()} == {"epoch": 3, "best": 0.5, "done": True}


# Damage


def test_a_missing_file_is_said_to_be_missing(file, tmp_path):
    for path in (file, tmp_path, tmp_path / "no" / "such"):
        with pytest.raises(FileNotFoundError, match=str(path)):
            fn.load(path)


def test_a_truncated_file_is_an_error_that_names_it(file):
    fn.save(file, {"a": jnp.arange(4.0), "b": jnp.ones((2, 2), jnp.bfloat16)})
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is no whole safetensors file") as caught:
            fn.load(file)
        assert str(file) in str(caught.value)


def test_a_longer_file_is_an_error_too(file):
    fn.save(file, {"a": jnp.arange(4.0)})
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        fn.load(file)


@pytest.mark.parametrize("content", [b"\0" * 64, b"\xff" * 64, b"PK\x03\x04" * 20, b"{}" * 40])
def test_another_kind_of_file_is_an_error_that_names_it(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=str(file)):
        fn.load(file, like={"a": jnp.ones(1)})


def kind(x):
    return x.shape, x.dtype


def test_a_garbled_header_never_gives_a_wrong_tree(file):
    tree = {"a": jnp.arange(4.0), "b": jnp.ones((2, 2), jnp.bfloat16)}
    fn.save(file, tree)
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    for place in range(len(whole) - 24):
        garbled = bytearray(whole)
        garbled[place] ^= int(draw.integers(1, 256))
        file.write_bytes(bytes(garbled))
        message = ""
        try:
            again = fn.load(file, like=tree)
        except ValueError as error:
            message = str(error)
        assert str(file) in message or jax.tree.map(kind, again) == jax.tree.map(kind, tree)
