"""No bit of what is kept changes unnoticed, and every damage is an error that names it."""

import hashlib
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from kept import NEW, OLD, same, two_kept

import funnet as fn
from funnet.store import checkpoints, durable, manifest
from funnet.store.checkpoints import MANIFEST, TENSORS, Checkpoints, Damaged, read

FILES = [MANIFEST, TENSORS]


@pytest.fixture
def kept(tmp_path):
    return two_kept(tmp_path / "kept")


def flips(path):
    """The number of each bit of a file in turn, while that bit is flipped in it."""
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for i in range(8 * len(whole)):
            for content in (whole[i // 8] ^ 1 << i % 8, whole[i // 8]):
                file.seek(i // 8)
                file.write(bytes([content]))
                if content != whole[i // 8]:
                    yield i
    assert path.read_bytes() == whole


def assert_damaged(path):
    with pytest.raises(Damaged) as caught:
        read(path)
    assert str(path) in str(caught.value)


def assert_passed_over(kept, path):
    with pytest.warns(UserWarning, match="is damaged: passed over") as warned:
        found = kept.newest()
    assert [str(w.message).startswith(str(path)) for w in warned] == [True]
    assert found.step == 100
    assert same(found.arrays(), OLD)


def test_what_was_written_comes_back(kept):
    for found in (kept.newest(), kept.at(200), read(kept.paths()[-1])):
        assert (found.step, found.facts["told"]) == (200, "new")
        assert same(found.arrays(), NEW)
    assert same(kept.at(100).arrays(), OLD)


@pytest.mark.parametrize("name", FILES)
def test_no_bit_changes_unnoticed(kept, name):
    path = kept.paths()[-1]
    for i in flips(path / name):
        with pytest.raises(Damaged):
            read(path)
        if i % 61 == 0:  # each bit of a byte now and then
            assert_damaged(path)
            assert_passed_over(kept, path)
    assert same(read(path).arrays(), NEW)


@pytest.mark.parametrize("name", FILES)
def test_what_is_cut_short_is_damaged(kept, name):
    path = kept.paths()[-1]
    whole = (path / name).read_bytes()
    for size in {*range(0, len(whole), 64), len(whole) - 1}:
        (path / name).write_bytes(whole[:size])
        assert_damaged(path)
        assert_passed_over(kept, path)


def looped(path):
    shutil.rmtree(path)
    path.symlink_to(path.name)


def linked(path, name=TENSORS):
    (path / name).unlink()
    (path / name).symlink_to(name)


def folder_for(path, name):
    (path / name).unlink()
    (path / name).mkdir()


def pipe_for(path, name):
    (path / name).unlink()
    os.mkfifo(path / name)


def sealed(**facts):
    """A manifest in order that says something else."""

    def write(path):
        own = manifest.read(path / MANIFEST)
        (path / MANIFEST).write_bytes(manifest.sealed({**own, **facts}))

    return write


def longer(path, name, more):
    (path / name).write_bytes((path / name).read_bytes() + more)


def of_another(path, name):
    shutil.copyfile(path.with_name("00000100") / name, path / name)


def written(content, name=MANIFEST):
    return lambda path: (path / name).write_bytes(content)


def nested(path):
    text = b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b',\n "sha256": "' + b"0" * 64 + b'"\n}\n'
    (path / MANIFEST).write_bytes(vouched(text))


def vouched(text):
    """A file whose seal, but nothing else, is in order."""
    return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode())


def huge(path, name):
    with open(path / name, "r+b") as file:
        file.truncate(2**40)


DAMAGES = {
    **{f"{name} gone": lambda path, name=name: (path / name).unlink() for name in FILES},
    **{f"{name} longer": lambda p, name=name: longer(p, name, b"\n") for name in FILES},
    **{f"{name} twice": lambda p, n=name: longer(p, n, (p / n).read_bytes()) for name in FILES},
    **{f"{name} a folder": lambda path, name=name: folder_for(path, name) for name in FILES},
    **{f"{name} a pipe": lambda path, name=name: pipe_for(path, name) for name in FILES},
    **{f"{name} a loop": lambda path, name=name: linked(path, name) for name in FILES},
    **{f"{name} of another": lambda path, name=name: of_another(path, name) for name in FILES},
    **{f"{name} huge": lambda path, name=name: huge(path, name) for name in FILES},
    "empty": lambda path: [(path / name).unlink() for name in FILES],
    "a file": lambda path: (shutil.rmtree(path), path.write_text("a file")),
    "a loop": looped,
    "a link to nowhere": lambda path: (shutil.rmtree(path), path.symlink_to("nowhere")),
    "copied over": lambda p: [of_another(p, name) for name in FILES],
    "another's name in it": sealed(name="00000300"),
    "no format": sealed(format=None),
    "no files": sealed(files=None),
    "other files": sealed(files={"/dev/zero": {"bytes": 0, "sha256": ""}}),
    "no name": written(manifest.sealed({"format": 1})),
    "no facts": written(manifest.sealed({})),
    "not UTF-8": written(b"\xff\xfe" * 200),
    "sealed, not UTF-8": written(vouched(b'{"a\xff": 1,\n "sha256": "' + b"0" * 64 + b'"\n}\n')),
    "sealed, not JSON": written(vouched(b'{"a: 1,\n "sha256": "' + b"0" * 64 + b'"\n}\n')),
    "sealed, no JSON number": written(
        vouched(b'{"a": ' + b"9" * 9999 + b',\n "sha256": "' + b"0" * 64 + b'"\n}\n')
    ),
    "nested": written(b"[" * 10**5),
    "sealed, nested": nested,
    "zeros": written(bytes(300)),
    "JSON of another kind": written(json.dumps({"step": 200}).encode()),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no POSIX system")
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_damage_is_noticed_too(kept, damage):
    path = kept.paths()[-1]
    DAMAGES[damage](path)
    assert_damaged(path)
    assert_passed_over(kept, path)


def test_checkpoints_that_have_swapped_their_tensors_are_both_damaged(kept):
    old, new = kept.paths()
    (old / TENSORS).rename(old / "x")
    (new / TENSORS).rename(old / TENSORS)
    (old / "x").rename(new / TENSORS)
    assert_damaged(old)
    assert_damaged(new)
    with pytest.warns(UserWarning, match="damaged") as warned:
        assert kept.newest() is None
    assert len(warned) == 2


@pytest.mark.parametrize("name", ["00000300", "00000200.2", "000000200", "00000200.1"])
def test_a_checkpoint_under_another_name_is_damaged(kept, name):
    path = kept.paths()[-1]
    path.rename(path.with_name(name))
    assert_damaged(path.with_name(name))
    assert_passed_over(kept, path.with_name(name))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
@pytest.mark.parametrize("name", FILES)
def test_what_may_not_be_read_is_passed_over_and_keeps_its_name(kept, name):
    path = kept.paths()[-1]
    (path / name).chmod(0)
    assert_damaged(path)
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.newest(aside=True).step == 100
    (path / name).chmod(0o600)
    assert kept.newest().step == 200


@pytest.mark.parametrize("name", FILES)
def test_what_the_disk_cannot_read_is_passed_over_and_keeps_its_name(kept, name, monkeypatch):
    path = kept.paths()[-1]
    with monkeypatch.context() as patch:
        patch.setattr(durable, "size", broken(durable.size, path / name, 5))
        with pytest.warns(UserWarning, match=r"damaged.*Input/output error"):
            assert kept.newest(aside=True).step == 100
    assert kept.newest().step == 200


def broken(usual, place, number):
    """`usual`, but with a place at which the system gives an error."""

    def ask(path):
        if path == place:
            raise OSError(number, os.strerror(number), str(path))
        return usual(path)

    return ask


@pytest.mark.parametrize("name", FILES)
def test_want_of_handles_is_no_damage(kept, name, monkeypatch):
    place = kept.paths()[-1] / name
    monkeypatch.setattr(durable, "size", broken(durable.size, place, 24))
    for find in (lambda: kept.newest(aside=True), lambda: kept.at(200)):
        with pytest.raises(OSError, match=f"(?i)too many open files.*{name}"):
            find()
    assert [path.name for path in kept.paths()] == ["00000100", "00000200"]


def test_a_damaged_one_is_put_aside_each_time_under_a_name_of_its_own(kept):
    for i in ("", "2", "3"):
        (kept.paths()[-1] / TENSORS).write_bytes(b"damaged" + i.encode())
        with pytest.warns(UserWarning, match=rf"now called 00000200\.damaged{i} "):
            assert kept.newest(aside=True).step == 100
        assert kept.newest().step == 100
        kept.write(200, NEW, {})
    aside = sorted(kept.folder.glob("*.damaged*"))
    assert [(p / TENSORS).read_bytes() for p in aside] == [b"damaged", b"damaged2", b"damaged3"]


def test_a_damaged_step_is_refused_by_name_with_what_else_there_is(kept):
    (kept.paths()[-1] / TENSORS).unlink()
    with pytest.raises(Damaged, match=r"(?s)step 200 is damaged: .*00000200.*has 100$"):
        kept.at(200)
    with pytest.raises(ValueError, match=r"keeps no checkpoint of step 7: .*has 100, 200$"):
        kept.at(7)
    with pytest.raises(ValueError, match=r"no checkpoint of step 7: .*has none$"):
        Checkpoints(kept.folder / "none").at(7)


def test_a_step_saved_twice_is_read_from_the_first_where_the_second_is_damaged(kept):
    again = kept.write(200, OLD, {})
    assert same(kept.at(200).arrays(), OLD)
    (again / MANIFEST).unlink()
    with pytest.warns(UserWarning, match=r"00000200\.2 is damaged"):
        found = kept.at(200)
    assert same(found.arrays(), NEW)


def test_a_later_version_s_checkpoint_is_not_damaged(kept):
    sealed(format=checkpoints.FORMAT + 1)(kept.paths()[-1])
    for find in (kept.newest, lambda: kept.at(200)):
        with pytest.raises(ValueError, match=r"00000200 was made by a later version") as caught:
            find()
        assert not isinstance(caught.value, Damaged)


# What may be there beside them, and what may not be kept


def test_other_names_are_no_checkpoints(kept):
    for name in ("٠٠٠٠٠٣٠٠", "00000300.damaged", ".00000300.x.part", "300", "00000300.", "x"):
        (kept.folder / name).mkdir()
    assert [path.name for path in kept.paths()] == ["00000100", "00000200"]
    assert Checkpoints(kept.folder / "none").paths() == []
    assert Checkpoints(kept.folder / "00000100" / TENSORS).newest() is None


@pytest.mark.parametrize(
    ("facts", "error"),
    [({"x": float("nan")}, ValueError), ({"x": {1, 2}}, TypeError), ({"sha256": ""}, ValueError)],
    ids=["not a number", "no JSON", "the seal"],
)
def test_facts_that_could_not_come_back_are_refused(kept, facts, error):
    with pytest.raises(error):
        kept.write(300, NEW, facts)
    assert os.listdir(kept.folder) == [path.name for path in kept.paths()]
    assert kept.newest().step == 200


def test_facts_too_long_to_be_read_again_are_refused(kept, monkeypatch):
    monkeypatch.setattr(manifest, "MOST", 10_000)
    with pytest.raises(ValueError, match=r"bytes of JSON, and 10,000 is the most"):
        kept.write(300, NEW, {"x": "y" * 10_000})
    assert kept.newest().step == 200


def test_a_step_that_could_not_be_found_again_is_refused(kept):
    with pytest.raises(ValueError, match="step must be 0 or more, got -1"):
        kept.write(-1, NEW, {})


# A single file


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tree.safetensors"
    fn.save(path, {"a": jnp.arange(3.0), "b": {"c": jnp.int8([1, -1])}})
    return path


def test_no_bit_of_a_file_gives_other_numbers(file):
    wanted, bits, refused = fn.load(file), 0, []
    for _ in flips(file):
        bits += 1
        try:
            found = fn.load(file)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert found.keys() == {"a", "b"}
            assert same({**found, **found["b"], "b": 0}, {**wanted, **wanted["b"], "b": 0})
    assert all(str(file) in message for message in refused)
    assert len(refused) > 0.9 * bits  # the rest is the digest's own name, and white space


def test_no_cut_of_a_file_gives_numbers(file):
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no whole safetensors file"):
            fn.load(file)


def test_files_of_other_hands_have_no_digest_and_are_read(file):
    from safetensors.numpy import save_file

    for facts in (None, {"format": "pt"}):
        save_file({"a": np.float32([1, 2])}, file, facts)
        assert fn.load(file)["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ({"dtype": "F8_E4M3", "shape": [2]}, bytes(2)),
        ({"dtype": "F4", "shape": [2]}, bytes(1)),
        ({"dtype": "F32", "shape": [0, 2**62]}, b""),
        ({"dtype": "F32", "shape": [0, 2**63]}, b""),
        ({"dtype": "F32", "shape": [1] * 65}, bytes(4)),
        ({"dtype": "I64", "shape": [1, 1]}, b"12345678"),
    ],
    ids=["float8", "float4", "large", "larger", "deep", "wide"],
)
def test_what_no_array_can_hold_is_an_error_that_names_the_file(file, entry, content):
    entry = {**entry, "data_offsets": [0, len(content)]}
    header = json.dumps({"a": entry}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + content)
    with pytest.raises(ValueError, match=str(file)):
        fn.load(file)


def test_names_that_are_leaf_and_branch_are_an_error_that_names_the_file(file):
    from safetensors.numpy import save_file

    save_file({"a": np.float32([1]), "a.b": np.float32([1])}, file)
    with pytest.raises(ValueError, match=rf"{file}: the path 'a\.b' is used twice"):
        fn.load(file)
