"""One process at a time writes into a folder, and a dead one keeps nobody from it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from funnet.store import lock as module
from funnet.store.lock import Lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no POSIX system")

START = """
import importlib.util, os, pathlib, sys
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
folder = pathlib.Path(sys.argv[2])
lock = module.Lock(folder)
lock.take()
"""
HOLD = START + "print('holding', flush=True); sys.stdin.readline(); lock.release()"
FORK = (
    START
    + """
if os.fork() == 0:
    other = open(folder / "other", "w+")  # has the number that the lock's file had
    other.write("whole")
    other.flush()
    try:
        lock.release()
        other.seek(0)
        found = other.read()
    except OSError as error:
        found = error
    os.write(1, f"child {found}\\n".encode())
else:
    os.write(1, b"parent\\n")
os.read(0, 1)  # until the test is over
"""
)


@contextlib.contextmanager
def process(script, folder):
    """Another process, with pipes."""
    command = [sys.executable, "-c", script, module.__file__, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as other:
        try:
            yield other
        finally:
            other.kill()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    with process(HOLD, tmp_path) as other:
        assert other.stdout.readline() == "holding\n"
        yield other


def assert_free(folder):
    lock = Lock(folder)
    lock.take()
    lock.release()


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path, holder):
    lock = Lock(tmp_path)
    told = rf"{tmp_path} is being written by process {holder.pid} on .+ since \d+.*another folder"
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=told):
            lock.take()
    lock.release()  # which it has not
    with pytest.raises(BlockingIOError, match=told):
        lock.take()


def test_a_process_that_ends_or_lets_go_leaves_it_free(tmp_path, holder):
    holder.communicate("\n", timeout=60)
    assert_free(tmp_path)


def test_a_process_that_is_killed_leaves_it_free_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(60)
    assert_free(tmp_path)


def test_a_process_that_is_stopped_still_has_it(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} "):
        Lock(tmp_path).take()


def test_a_forked_child_neither_keeps_it_nor_gives_it_up(tmp_path):
    with process(FORK, tmp_path) as parent:
        lines = {parent.stdout.readline() for _ in range(2)}
        assert lines == {"parent\n", "child whole\n"}
        with pytest.raises(BlockingIOError, match=f"process {parent.pid} "):
            Lock(tmp_path).take()
        parent.kill()
        parent.wait(60)
        assert_free(tmp_path)
    assert (tmp_path / "other").read_text() == "whole"


def test_a_process_that_is_started_does_not_inherit_it(tmp_path):
    lock = Lock(tmp_path)
    lock.take()
    assert not os.get_inheritable(lock.handle)
    lock.release()


def test_this_process_has_it_once(tmp_path):
    lock, other = Lock(tmp_path), Lock(tmp_path)
    lock.take()
    try:
        for each in (lock, other):
            with pytest.raises(BlockingIOError, match=f"{tmp_path} is being written"):
                each.take()
        other.release()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} "):
            other.take()
    finally:
        lock.release()
    lock.release()
    other.take()
    other.release()


def test_one_of_many_threads_has_it(tmp_path):
    taken, refused, together = [], [], threading.Barrier(8)

    def take():
        lock = Lock(tmp_path)
        together.wait()
        try:
            lock.take()
            taken.append(lock)
        except BlockingIOError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    taken[0].release()
    assert_free(tmp_path)


def test_a_refused_one_leaves_no_file_open(tmp_path):
    lock = Lock(tmp_path)
    lock.take()
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            Lock(tmp_path).take()
    assert len(os.listdir("/dev/fd")) == before
    lock.release()
    assert len(os.listdir("/dev/fd")) == before - 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"process": 1}', b"[" * 9999])
def test_a_file_that_tells_nothing_is_another_process_s(tmp_path, content):
    lock = Lock(tmp_path)
    lock.take()
    lock.path.write_bytes(content)
    with pytest.raises(BlockingIOError, match="by another process: wait"):
        Lock(tmp_path).take()
    lock.release()


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "a" / "lock").mkdir(parents=True)
    for folder in (tmp_path / "none", tmp_path / "a"):
        with pytest.raises(OSError, match=str(folder)):
            Lock(folder).take()


def test_a_disk_without_a_byte_left_can_be_locked(disk):
    assert_free(disk.place)
    with disk.full():
        assert_free(disk.place)


def test_a_disk_that_knows_no_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked.*only one process"):
        assert_free(tmp_path)
