"""A data set's download into the cache, from a server on this machine, and what hinders it."""

import gzip
import os
import re
import socket
from dataclasses import replace

import numpy as np
import pytest
from made_files import files, md5

from funnet.data import sources
from funnet.data.download import Download, Layout, Source, load


def read_pair(first, second):
    return {"image": np.array(first.read_bytes())}, {"image": np.array(second.read_bytes())}


PAIR = Source(
    name="pair",
    layouts=(Layout(("a.bin", "b.bin"), read_pair),),
    downloads=(
        Download("a.bin", size=1, md5=md5(b"A")),
        Download("b.bin", size=1, md5=md5(b"B")),
    ),
    mirrors=(),
)


def closed_url():
    """An address on this machine where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def test_download_goes_to_the_cache_and_happens_once(server, tmp_path):
    server.files.update({"/a.bin": b"A", "/b.bin": b"B"})
    source = replace(PAIR, mirrors=(server.url,))
    for _ in range(2):
        train, test = load(source)
        assert (train["image"], test["image"]) == (b"A", b"B")
    assert server.requests == ["/a.bin", "/b.bin"]
    assert files(tmp_path / "cache/funnet/pair") == ["a.bin", "b.bin"]


def test_only_what_the_cache_lacks_is_downloaded(server, tmp_path):
    cache = tmp_path / "cache/funnet/pair"
    cache.mkdir(parents=True)
    (cache / "a.bin").write_bytes(b"A")
    server.files["/b.bin"] = b"B"
    load(replace(PAIR, mirrors=(server.url,)))
    assert server.requests == ["/b.bin"]


def test_each_file_has_the_choice_of_all_mirrors(server):
    server.files.update({"/one/a.bin": b"A", "/two/b.bin": b"B"})
    mirrors = (f"{server.url}one/", f"{server.url}two/")
    train, test = load(replace(PAIR, mirrors=mirrors))
    assert (train["image"], test["image"]) == (b"A", b"B")


def test_no_download_where_none_is_wanted(server, tmp_path):
    server.files.update({"/a.bin": b"A", "/b.bin": b"B"})
    source = replace(PAIR, mirrors=(server.url,))
    with pytest.raises(FileNotFoundError, match="no download, as download=False"):
        load(source, download=False)
    with pytest.raises(FileNotFoundError, match="A given folder is the only place"):
        load(source, tmp_path)
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


def test_offline_one_error_lists_all_places_and_what_to_do(monkeypatch, server, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path / "data"))
    (tmp_path / "data/pair").mkdir(parents=True)
    (tmp_path / "data/pair/a.bin").write_bytes(b"A")
    closed, cache = closed_url(), tmp_path / "cache/funnet/pair"
    with pytest.raises(FileNotFoundError) as caught:
        load(replace(PAIR, mirrors=(closed, server.url)))
    lines = str(caught.value).split("\n")
    assert lines[:3] == [
        "pair was not found. Tried:",
        f"  {tmp_path}/data/pair: lacks b.bin",
        f"  {cache}: no such folder",
    ]
    assert re.fullmatch(f"  {closed}a.bin: .*refused.*", lines[3])
    assert re.fullmatch(f"  {server.url}a.bin: HTTP Error 404.*", lines[4])
    assert lines[5].startswith(f"Place a.bin, b.bin in {cache}; or set FUNNET_DATA to a folder")
    assert len(lines) == 6
    assert files(cache) == []


def test_cache_that_cannot_be_made(server, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match="cache") as caught:
        load(replace(PAIR, mirrors=(server.url,)))
    assert "or set FUNNET_DATA to a folder" in "".join(caught.value.__notes__)
    assert server.requests == []


def test_damaged_cache_is_not_downloaded_over(monkeypatch, server, tmp_path):
    cache = tmp_path / "cache/funnet/mnist"
    cache.mkdir(parents=True)
    source = replace(sources.SOURCES["mnist"], mirrors=(server.url,))
    monkeypatch.setitem(sources.SOURCES, "mnist", source)
    for item in source.downloads:
        (cache / item.name).write_bytes(gzip.compress(b"damaged"))
    with pytest.raises(ValueError, match="in funnet's cache folder: delete it"):
        sources.mnist()
    assert server.requests == []


def serve_as(monkeypatch, server, name, contents):
    """Make the data set ``name`` one whose official files are ``contents``, on the server."""
    old = sources.SOURCES[name]
    items = []
    for item in old.downloads:
        content = contents[item.name]
        server.files[f"/{item.name}"] = content
        inside = gzip.decompress(content) if item.unpacked else content
        unpacked = len(inside) if item.unpacked else 0
        items.append(Download(item.name, len(content), md5(inside), unpacked))
    new = replace(old, downloads=tuple(items), mirrors=(closed_url(), server.url))
    monkeypatch.setitem(sources.SOURCES, name, new)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_downloaded_mnist_is_read(monkeypatch, server, tmp_path, name):
    contents, labels = {}, bytes([3, 1, 4])
    for split in ("train", "t10k"):
        images = bytes([0, 0, 8, 3]) + np.array([3, 28, 28], ">u4").tobytes() + bytes(3 * 784)
        contents[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(images)
        header = bytes([0, 0, 8, 1]) + np.array([3], ">u4").tobytes()
        contents[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(header + labels)
    serve_as(monkeypatch, server, name, contents)
    train, test = getattr(sources, name)()
    assert train["image"].shape == test["image"].shape == (3, 28, 28, 1)
    assert train["label"].tolist() == test["label"].tolist() == [3, 1, 4]
    assert files(tmp_path / "cache/funnet" / name) == sorted(contents)


def test_offline_cifar10_beside_files_of_another_kind(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/images.npy").write_bytes(b"another format")
    closed = closed_url()
    source = replace(sources.SOURCES["cifar10"], mirrors=(closed,))
    monkeypatch.setitem(sources.SOURCES, "cifar10", source)
    with pytest.raises(FileNotFoundError) as caught:
        sources.cifar10()
    message = str(caught.value)
    assert f"{tmp_path}/cifar10: lacks data_batch_1.bin, data_batch_2.bin" in message
    assert f"{closed}cifar-10-binary.tar.gz: " in message
    assert f"Place cifar-10-binary.tar.gz in {tmp_path}/cache/funnet/cifar10" in message
    assert os.listdir(tmp_path / "cache/funnet/cifar10") == []
