"""Weights that do not fit: everything that is wrong with them, in one message."""

import sys

import jax
import pytest
from small_net import MODEL, TENSORS, X, but, draws, net

from funnet.interop import from_torch, twin


def refusal(tensors=TENSORS, like=X, **told):
    with pytest.raises(ValueError, match="do not fit") as error:
        from_torch(MODEL, tensors, like=like, **told)
    return str(error.value).splitlines()


def test_all_that_is_wrong_is_listed_in_one_message():
    tensors = but(head_bias=None, conv_weight=draws(4, 3, 5, 5), tail_weight=draws(2, 4))
    head, missing, surplus, misshapen = refusal(tensors)
    assert head == "the tensors do not fit the model (names= renames paths)"
    assert missing == "  missing: head.bias (2,) (PyTorch: head.bias)"
    assert surplus == "  surplus: tail.weight"
    assert misshapen == (
        "  misshapen: conv.kernel (3, 3, 3, 4) from conv.weight (4, 3, 5, 5), "
        "which as a convolution's kernel gives (5, 5, 3, 4)"
    )


def test_a_wrong_name_is_shown_with_the_nearest_that_is_missing():
    tensors = {name.replace("head", "fc"): x for name, x in TENSORS.items()}
    _, missing, surplus = refusal(tensors)
    assert "head.kernel (4, 2) (PyTorch: head.weight)" in missing
    assert surplus == "  surplus: fc.weight (nearest: head.kernel), fc.bias (nearest: head.bias)"


def test_long_lists_are_cut_with_a_count():
    tensors = {**TENSORS, **{f"more.{i}.weight": draws(1) for i in range(25)}}
    assert refusal(tensors)[1].endswith("more.9.weight (nearest: norm.scale), and 15 more")


def test_a_matrix_that_is_not_transposed_is_misshapen():
    assert refusal(but(head_weight=draws(4, 2)))[1:] == [
        "  misshapen: head.kernel (4, 2) from head.weight (4, 2), which transposed gives (2, 4)"
    ]


def test_the_state_of_a_like_without_state_is_surplus():
    assert "norm.running_mean" in refusal(like=MODEL.shapes(X)[0])[1]


@pytest.mark.parametrize("features", [(4, 1, 1), (2, 1, 2)])
def test_flattened_features_must_be_as_many_as_the_rows(features):
    assert from_torch(MODEL, TENSORS, like=X, flattened={"head": features})
    (_, misshapen) = refusal(flattened={"head": (*features, 2)})
    assert "head.kernel (4, 2) from head.weight (2, 4)" in misshapen
    assert "channels first, gives nothing" in misshapen


def test_flattened_must_name_a_dense_layer():
    with pytest.raises(ValueError, match=r"'conv' matches nothing; the nearest paths are: head"):
        from_torch(MODEL, TENSORS, like=X, flattened={"conv": (4, 1, 1)})


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "last.ckpt"])
def test_pickles_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"is a pickle, which can run code.*weights_only=True"):
        from_torch(MODEL, tmp_path / name, like=X)


def test_no_file_and_no_safetensors_file_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file .*model\.safetensors"):
        from_torch(MODEL, path, like=X)
    path.write_bytes(b"not a header at all")
    with pytest.raises(ValueError, match=r"model\.safetensors is no whole safetensors file"):
        from_torch(MODEL, path, like=X)


class Module:
    """Like PyTorch's, as far as a mistake goes."""

    def state_dict(self):
        return TENSORS


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (Module(), r"must be a mapping.*got Module; write tensors=module\.state_dict\(\)"),
        ([1], r"must be a mapping.*got list$"),
        ({"model": TENSORS}, r"tensors\['model'\] must be a tensor, got dict; write tensors\["),
        ({"epoch": 3}, r"tensors\['epoch'\] must be a tensor, got int$"),
        ({"a": jax.ShapeDtypeStruct((2,), "float32")}, r"a is Shape.*no numbers"),
    ],
)
def test_what_is_no_mapping_of_tensors_is_refused(tensors, message):
    with pytest.raises(TypeError, match=message):
        from_torch(MODEL, tensors, like=X)


def test_a_tree_must_be_of_arrays():
    with pytest.raises(TypeError, match=r"head\.bias must be an array.*got int"):
        from_torch(MODEL, TENSORS, like={"head": {"bias": 3}})


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model must be an fn\.Model.*write fn\.Model\(layer\)"):
        from_torch(net, TENSORS, like=X)


def test_a_twin_without_pytorch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[torch\]'"):
        twin(MODEL, {}, {}, object(), X)
