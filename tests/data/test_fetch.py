"""The download of one file, from a server on this machine: good, bad, interrupted, at once."""

import contextlib
import errno
import gzip
import io
import re
import socket
import sys
import threading

import numpy as np
import pytest
from made_files import files, md5

from funnet.data import download
from funnet.data.download import Download, fetch

CONTENT = np.random.default_rng(0).integers(0, 64, 260_000, np.uint8).tobytes()
PACKED = gzip.compress(CONTENT, mtime=0)


ITEM = Download("file.bin", size=len(CONTENT), md5=md5(CONTENT))
ITEM_GZ = Download("file.bin.gz", len(PACKED), md5(CONTENT), unpacked=len(CONTENT))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_file_arrives_whole_under_its_name_and_alone(server, folder):
    server.files["/file.bin"] = CONTENT
    fetch(ITEM, (server.url,), folder)
    assert files(folder) == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT


def test_length_that_is_not_announced(server, folder):
    server.files["/file.bin"] = lambda handler: handler.send(CONTENT, announced=None)
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
    handler.send(CONTENT[:-1000], announced=len(CONTENT))


def reset(handler):
    handler.send(CONTENT[:100_000], announced=len(CONTENT))
    # Linger of zero seconds: the close is a reset, not an orderly end.
    linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def endless(handler):
    with contextlib.suppress(OSError):  # until the client hangs up
        handler.send(CONTENT, announced=None)
        while True:
            handler.wfile.write(CONTENT)


BAD = {
    "absent": (None, r"HTTP Error 404"),
    "corrupted": (CONTENT[:-1] + b"x", f"found content of MD5 .*, expected {ITEM.md5}"),
    "empty": (b"", f"found content of MD5 {md5(b'')}, expected {ITEM.md5}"),
    "cut short": (cut, "found 259000 bytes, expected the 260000 it announced|IncompleteRead"),
    "reset": (reset, "reset|IncompleteRead"),
    "endless": (endless, "found more than 520000 bytes, expected 260000"),
    "no HTTP": (lambda handler: handler.wfile.write(b"hello\r\n\r\n"), "hello"),
    "no answer": (lambda handler: None, "closed connection"),
    "odd length": (lambda handler: handler.send(b"", announced="many"), "many"),
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
