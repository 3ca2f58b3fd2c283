"""What concerns the whole process: its allocator, and compilations that are kept."""

import os
import pathlib
import platform
import subprocess
import sys

import jax
import pytest

import funnet as fn
from funnet import host

ROOT = pathlib.Path(__file__).resolve().parents[1]
GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


def process(code, *args, **variables):
    """What a process of its own prints, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    known = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **known}, capture_output=True, text=True, check=False
    )


# tune_host

MAPPED = """
import ctypes, sys
import funnet as fn
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def heap_has(address):
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith("[heap]"):
            first, last = (int(x, 16) for x in line.split()[0].split("-"))
            return first <= address < last

def large():
    address = libc.malloc(200 * 2**20)
    found = heap_has(address)
    libc.free(address)
    return found, heap_has(address)

print(*large())
print(fn.tune_host())
print(*large())
print(fn.tune_host())
"""


@pytest.mark.skipif(not GLIBC, reason="these are glibc's settings")
def test_large_arrays_come_from_the_heap_and_it_is_kept():
    before, said, after, again = process(MAPPED).stdout.splitlines()
    assert before == "False False"
    assert said == "glibc's malloc keeps its memory: no mmap, no trim, 64 MiB steps, one arena"
    assert after == "True True"
    assert again == f"as before: {said}"


@pytest.fixture
def untouched(monkeypatch):
    """A process in which nothing is set, and nothing can be."""
    monkeypatch.setattr(host, "_done", [])
    monkeypatch.setattr(host, "_set", lambda: pytest.fail("mallopt was called"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))


def test_it_leaves_other_systems_alone(untouched, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert fn.tune_host() == "nothing is set: this is Darwin, not Linux"


def test_it_leaves_other_c_libraries_alone(untouched, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert fn.tune_host() == "nothing is set: the C library is not glibc"


def test_it_leaves_other_allocators_alone(untouched, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    said = "nothing is set: jemalloc is loaded in the place of glibc's malloc"
    assert fn.tune_host() == said


def test_it_says_what_was_refused(untouched, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(host, "_set", lambda: ["parameter -4"])
    assert fn.tune_host().endswith("glibc's mallopt refused parameter -4")


def test_it_says_that_an_accelerator_has_memory_of_its_own(untouched, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(host, "_set", list)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fn.tune_host().endswith("this is for arrays on the host, not for those on the gpu")


# cache_compilations

COMPILES = """
import sys
import jax, jax.numpy as jnp
import funnet as fn
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
print(fn.cache_compilations(*sys.argv[1:]))
print(float(jax.jit(lambda x: jnp.sin(x) * 3)(2.0)))
print(found.count("/jax/compilation_cache/cache_hits"))
"""


def test_the_next_process_finds_what_was_compiled(tmp_path):
    first, second = (process(COMPILES, tmp_path / "kept") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    folder, number, hits = first.stdout.splitlines()
    assert folder == str(tmp_path / "kept" / host.machine())
    assert hits == "0"
    assert second.stdout.splitlines()[:2] == [folder, number]
    assert int(second.stdout.splitlines()[2]) > 0


def test_the_usual_folder_is_the_users_cache(tmp_path):
    done = process(COMPILES, XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.splitlines()[0] == str(tmp_path / "funnet" / "jax" / host.machine())


def test_what_is_damaged_is_compiled_again(tmp_path):
    first = process(COMPILES, tmp_path)
    for path in (tmp_path / host.machine()).iterdir():
        path.write_bytes(path.read_bytes()[:40])
    again = process(COMPILES.replace("import sys", "import sys, warnings", 1), tmp_path)
    assert again.returncode != 0  # warnings are errors in these processes
    assert "persistent compilation cache" in again.stderr
    code = f"import warnings; warnings.simplefilter('ignore')\n{COMPILES}"
    calm = process(code, tmp_path)
    assert calm.stdout.splitlines()[1] == first.stdout.splitlines()[1]


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    with pytest.raises(NotADirectoryError) as caught:
        fn.cache_compilations(tmp_path / "file" / "kept")
    assert any("name a folder that can be written" in note for note in caught.value.__notes__)
    assert jax.config.jax_compilation_cache_dir == before


def test_machines_of_other_features_have_other_folders(monkeypatch):
    here = host.machine()
    assert here == host.machine()
    monkeypatch.setattr(host, "_features", lambda: "flags: other")
    assert host.machine() != here
