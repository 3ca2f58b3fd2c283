"""Where files are looked for: a given folder, the environment's, then the cache."""

import os

import pytest
from made_files import IMAGES, LABELS, write, write_mnist

from funnet.data.sources import fashion_mnist, mnist


def test_search_order_is_folder_then_environment_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path / "data"))
    for count, folder in enumerate(("cache/funnet/mnist", "data/mnist", "given"), start=1):
        write_mnist(tmp_path / folder, train=count)
        assert len(mnist(download=False)[0]["label"]) == min(count, 2)
    assert len(mnist(tmp_path / "given")[0]["label"]) == 3


def test_cache_without_xdg_is_below_the_home_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path / "home/.cache/funnet/mnist", train=7)
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert len(mnist(download=False)[0]["label"]) == 7


def test_found_data_needs_no_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(FileNotFoundError, match=r"no home folder .* set FUNNET_DATA"):
        mnist()
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist", train=7)
    assert len(mnist()[0]["label"]) == 7


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path / "home/mnist", train=7)
    assert len(mnist("~/mnist")[0]["label"]) == 7
    monkeypatch.setenv("FUNNET_DATA", "~")
    assert len(mnist(download=False)[0]["label"]) == 7


def test_each_data_set_has_a_place_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist", train=4)
    write_mnist(tmp_path / "fashion_mnist", train=6)
    assert (len(mnist()[0]["label"]), len(fashion_mnist()[0]["label"])) == (4, 6)


def test_given_folder_without_the_files_is_an_error_though_others_have_them(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path / "data"))
    write_mnist(tmp_path / "data/mnist")
    given = tmp_path / "given"
    write_mnist(given)
    (given / f"{LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist(given)
    assert f"folder={str(given)!r}: lacks {LABELS}[.gz]. A given folder" in str(caught.value)


def test_given_parent_folder_is_told_to_go_one_deeper(tmp_path):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(FileNotFoundError, match=r"pass folder='.*mnist'"):
        mnist(tmp_path)


def test_given_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent': no such folder"):
        mnist(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"file': is not a folder"):
        mnist(tmp_path / "file")


@pytest.mark.parametrize("folder", [3, b"data", ["data"]])
def test_folder_of_a_wrong_type(folder):
    with pytest.raises(TypeError, match=r"folder must be a path or None, got .*: pass e\.g\."):
        mnist(folder)


def test_empty_folder_name_is_not_this_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"folder is an empty path: pass '\.'"):
        mnist("")
    assert len(mnist(".")[0]["label"]) == 5


def test_folder_that_cannot_be_looked_into(monkeypatch, tmp_path):
    loop = tmp_path / "mnist"  # a link to itself: unreadable even to root, whom no mode stops
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"expected a readable folder.*mnist"):
        mnist(loop)
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "cache/funnet/mnist")
    with pytest.raises(OSError, match=r"expected a readable folder.*mnist"):
        mnist()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_and_file_without_permission(tmp_path):
    write_mnist(tmp_path / "a")
    (tmp_path / f"a/{LABELS}.gz").chmod(0)
    with pytest.raises(PermissionError, match=LABELS):
        mnist(tmp_path / "a")
    (tmp_path / "a").chmod(0)
    with pytest.raises(PermissionError, match="expected a readable folder"):
        mnist(tmp_path / "a")
    (tmp_path / "a").chmod(0o700)


def test_folder_in_place_of_a_file_is_no_file(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / IMAGES).mkdir()  # as some unpackers make them; the .gz is still there
    assert len(mnist(tmp_path)[0]["label"]) == 5
    (tmp_path / f"{IMAGES}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {IMAGES}"):
        mnist(tmp_path)


def test_damage_in_a_searched_folder_is_not_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "cache/funnet/mnist")
    write_mnist(tmp_path / "mnist")
    path = write(tmp_path / "mnist" / IMAGES, b"")
    with pytest.raises(ValueError, match="found 0 bytes") as caught:
        mnist()
    assert str(path) in str(caught.value)
