"""Downloads, from servers on this machine only: good, bad, cut short, interrupted and at once."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from funnet.data import download, sources
from funnet.data.download import Download, Layout, Source, fetch, load

CONTENT = np.random.default_rng(0).integers(0, 64, 260_000, np.uint8).tobytes()
PACKED = gzip.compress(CONTENT, mtime=0)


def md5(content):
    return hashlib.md5(content).hexdigest()


ITEM = Download("file.bin", size=len(CONTENT), md5=md5(CONTENT))
ITEM_GZ = Download("file.bin.gz", len(PACKED), md5(CONTENT), unpacked=len(CONTENT))


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


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """No test sees the user's own data or proxies, or writes to the user's own cache."""
    monkeypatch.delenv("FUNNET_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``: by path, bytes or a function that is given the handler."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.files.get(self.path)
        if callable(answer):
            answer(self)
        elif answer is None:
            self.send_error(404)
        else:
            send(self, answer, announced=len(answer))

    def log_message(self, *args):
        pass


def send(handler, content, announced):
    handler.send_response(200)
    if announced is not None:
        handler.send_header("Content-Length", str(announced))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def closed_url():
    """An address on this machine where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# --- one file ------------------------------------------------------------------------------


def test_file_arrives_whole_under_its_name_and_alone(server, folder):
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    assert files(folder) == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT


def test_length_that_is_not_announced(server, folder):
    server.files["/file.bin"] = lambda handler: send(handler, CONTENT, announced=None)
    fetch(ITEM, (server.url,), folder)
    assert (folder / "file.bin").read_bytes() == CONTENT


def test_file_is_as_readable_as_others_of_the_user(server, folder):
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    (folder / "other").write_bytes(b"")
    assert (folder / "file.bin").stat().st_mode == (folder / "other").stat().st_mode


@pytest.mark.parametrize("level", [1, 9])
def test_checksum_of_the_content_accepts_any_compression(server, folder, level):
    packed = gzip.compress(CONTENT, level, mtime=level)
    server.files["/file.bin.gz"] = packed
    fetch(ITEM_GZ, (server.url,), folder)
    assert (folder / "file.bin.gz").read_bytes() == packed


def test_checksum_of_a_gzip_file_itself(server, folder):
    item = Download("file.bin.gz", len(PACKED), md5(PACKED))
    server.files["/file.bin.gz"] = gzip.compress(CONTENT, mtime=1)
    with pytest.raises(ConnectionError, match=f"expected {item.md5}"):
        fetch(item, (server.url,), folder)
    server.files["/file.bin.gz"] = PACKED
    fetch(item, (server.url,), folder)
    assert files(folder) == ["file.bin.gz"]


def cut(handler):
    send(handler, CONTENT[:-1000], announced=len(CONTENT))


def reset(handler):
    send(handler, CONTENT[:100_000], announced=len(CONTENT))
    # Linger of zero seconds: the close is a reset, not an orderly end.
    linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def endless(handler):
    with contextlib.suppress(OSError):  # until the client hangs up
        send(handler, CONTENT, announced=None)
        while True:
            handler.wfile.write(CONTENT)


BAD = {
    "absent": (None, r"HTTP Error 404"),
    "corrupted": (CONTENT[:-1] + b"x", f"found content of MD5 .*, expected {ITEM.md5}"),
    "empty": (b"", f"found content of MD5 {md5(b'')}, expected {ITEM.md5}"),
    "a web page": (b"<html>Log in!</html>", f"found content of MD5 .*, expected {ITEM.md5}"),
    "cut short": (cut, "found 259000 bytes, expected the 260000 it announced|IncompleteRead"),
    "reset": (reset, "reset|IncompleteRead"),
    "endless": (endless, "found more than 520000 bytes, expected 260000"),
    "no HTTP": (lambda handler: handler.wfile.write(b"hello\r\n\r\n"), "hello"),
    "no answer": (lambda handler: None, "closed connection"),
    "odd length": (lambda handler: send(handler, b"", announced="many"), "many"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_mirror_leaves_nothing_behind_and_the_next_is_tried(server, folder, kind):
    answer, message = BAD[kind]
    server.files.update({"/bad/file.bin": answer, "/good/file.bin": CONTENT})
    bad, good = f"{server.url}bad/", f"{server.url}good/"
    with pytest.raises(ConnectionError, match=message) as caught:
        fetch(ITEM, (bad,), folder)
    assert str(caught.value).startswith(f"{bad}file.bin: ")
    assert files(folder) == []
    fetch(ITEM, (bad, good), folder)
    assert files(folder) == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT


BAD_GZ = {
    "unpacked": (CONTENT, "Not a gzipped file"),
    "cut": (PACKED[:-5], "ended before"),
    "broken": (PACKED[:100] + b"\xff" * 200 + PACKED[300:], "found no sound gzip file"),
    "other": (gzip.compress(CONTENT[1:]), f"found content of MD5 .*, expected {ITEM_GZ.md5}"),
    "more": (PACKED + gzip.compress(b"!"), f"found content of MD5 .*, expected {ITEM_GZ.md5}"),
    # Its end is missing, but so much is wrong before that it is never reached.
    "bomb": (
        gzip.compress(bytes(1 << 23))[:-8],
        f"found content of MD5 .*, expected {ITEM_GZ.md5}",
    ),
}


@pytest.mark.parametrize("kind", BAD_GZ)
def test_bad_gzip_is_not_kept(server, folder, kind):
    answer, message = BAD_GZ[kind]
    server.files["/file.bin.gz"] = answer
    with pytest.raises(ConnectionError, match=message):
        fetch(ITEM_GZ, (server.url,), folder)
    assert files(folder) == []


def test_silent_server_is_given_up(monkeypatch, server, folder):
    waiting = threading.Event()
    server.files["/file.bin"] = lambda handler: waiting.wait(10)
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    with pytest.raises(ConnectionError, match="timed out"):
        fetch(ITEM, (server.url,), folder)
    waiting.set()
    assert files(folder) == []


def test_failed_download_leaves_an_older_file_as_it_was(server, folder):
    (folder / "file.bin").write_bytes(b"older")
    with pytest.raises(ConnectionError):
        fetch(ITEM, (server.url,), folder)
    assert (folder / "file.bin").read_bytes() == b"older"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")])
@pytest.mark.parametrize("moment", ["os.fsync", "os.replace", "hashlib.md5", "second block"])
def test_interrupted_download_leaves_nothing(monkeypatch, server, folder, moment, error):
    server.files["/file.bin"] = CONTENT
    partial = []

    def fail(*args, **kwargs):
        partial.extend(files(folder))
        raise error

    if moment == "second block":
        answers = iter([lambda response: CONTENT[:10], fail])
        monkeypatch.setattr(download, "_receive", lambda response: next(answers)(response))
    else:
        monkeypatch.setattr(moment, fail)
    with pytest.raises(type(error)) as caught:
        fetch(ITEM, (server.url, server.url), folder)
    assert caught.value is error
    assert len(partial) == 1
    assert re.fullmatch(r"\.file\.bin\..*\.part", partial[0])
    assert files(folder) == []
    assert server.requests == ["/file.bin"]  # no other mirror mends this machine


def test_full_disk(server, folder):
    resource = pytest.importorskip("resource")
    server.files["/file.bin"] = CONTENT
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the write itself fails
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fetch(ITEM, (server.url,), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(caught.value, ConnectionError)
    assert files(folder) == []


def test_two_downloads_at_once_both_end_well(server, folder):
    both = threading.Barrier(2, timeout=10)

    def meet_halfway(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT[:1000])
        handler.wfile.flush()
        both.wait()
        handler.wfile.write(CONTENT[1000:])

    server.files["/file.bin"] = meet_halfway
    failures = []

    def work():
        try:
            fetch(ITEM, (server.url,), folder)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files(folder) == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT


# --- what is shown -------------------------------------------------------------------------


def test_where_nobody_watches_one_plain_line_is_shown(server, folder, capsys):
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"funnet: downloading {server.url}file.bin (0.3 MB)\n")


def test_terminal_is_shown_a_bar(monkeypatch, server, folder):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    steps = re.findall(r"\r.*? \[#*\.*\] +(\d+)%", screen.getvalue())
    assert [int(step) for step in steps] == sorted(int(step) for step in steps)
    assert len(steps) > 2
    assert screen.getvalue().endswith(f"[{'#' * 20}] 100%\n")


def test_process_without_a_console(monkeypatch, server, folder, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    assert capsys.readouterr().out == ""
    assert files(folder) == ["file.bin"]


# --- a whole data set ----------------------------------------------------------------------


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
    (tmp_path / "cifar10/train.npz").write_bytes(b"another format")
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
