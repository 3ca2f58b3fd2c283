"""Settings of the process that runs JAX: the host's memory allocator, and compilations kept.

Neither is touched by `import funnet`: both affect everything else in the process.
"""

import ctypes
import hashlib
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax

# glibc's malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX and M_ARENA_MAX, with values.
TRIM, PAD, MMAP, ARENAS = -1, -2, -4, -8
GLIBC = {MMAP: 0, TRIM: 2**31 - 1, PAD: 64 * 2**20, ARENAS: 1}
OTHERS = ("jemalloc", "tcmalloc", "mimalloc", "snmalloc", "hoard")
_done: list[str] = []  # what was set in this process


def tune_host() -> str:
    """Lets glibc keep the memory that it was given; one line of what was done.

    By default glibc maps each large array anew and unmaps it when it is freed, and the kernel has
    to clear its pages every time, which can take longer than the computation. From this call on,
    large arrays come out of the heap, freed memory stays there, and all threads share one heap
    (`mallopt` with M_MMAP_MAX 0, M_TRIM_THRESHOLD the largest, M_TOP_PAD 64 MiB, M_ARENA_MAX 1).

    It costs memory: the process keeps its peak until it ends, a heap in which large arrays come and
    go may grow to several times what is alive at once, and threads that allocate at once wait for
    each other. It concerns the whole process, and JAX's arrays on a CPU; call it once, before the
    first large array. Elsewhere than on Linux with glibc it does nothing, and says so.

    Source: the mallopt(3) manual page.

    >>> print(tune_host())  # doctest: +SKIP
    glibc's malloc keeps its memory: no mmap, no trim, 64 MiB steps, one arena
    """
    if _done:
        return f"as before: {_done[0]}"
    if why := _not_glibc():
        return f"nothing is set: {why}"
    if refused := _set():
        return f"nothing more is set: glibc's mallopt refused {', '.join(refused)}"
    said = "glibc's malloc keeps its memory: no mmap, no trim, 64 MiB steps, one arena"
    backend = jax.default_backend()
    if backend != "cpu":
        said += f"; this is for arrays on the host, not for those on the {backend}"
    _done.append(said)
    return said


def _set() -> list[str]:
    """Sets all parameters; names those that were refused."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return [f"parameter {name}" for name, value in GLIBC.items() if not mallopt(name, value)]


def _not_glibc() -> str:
    """Why glibc's settings would not apply here; empty if they do."""
    if not sys.platform.startswith("linux"):
        return f"this is {platform.system()}, not Linux"
    if platform.libc_ver()[0] != "glibc":
        return "the C library is not glibc"
    loaded = _loaded()
    other = next((name for name in OTHERS if name in loaded), None)
    return f"{other} is loaded in the place of glibc's malloc" if other else ""


def _loaded() -> str:
    """The names of what was put before the C library, as far as that can be told."""
    return os.environ.get("LD_PRELOAD", "").lower()


def cache_compilations(folder: str | Path | None = None) -> Path:
    """Keeps what XLA compiles in a folder, so that the next process need not compile it again.

    Call it before the first computation. Each kind of machine (processor and its features, version
    of jaxlib) has a folder of its own in it, as a program for one may not run on another. Programs
    are kept for good: delete the folder to be rid of them. What is kept is executed: give a folder
    that only you can write to. A damaged program is compiled again, with JAX's warning.

    Args:
        folder: made if missing; by default `funnet/jax` in `$XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        The folder of this machine's programs.

    Raises:
        OSError: if the folder cannot be made or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     cache_compilations(folder)
    """
    parent = _usual() if folder is None else Path(folder).expanduser()
    own = parent / machine()
    try:
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=own):
            pass
    except OSError as error:
        error.add_note(
            f"compilations cannot be kept in {own}: name a folder that can be written, "
            "fn.cache_compilations(folder), or do without"
        )
        raise
    jax.config.update("jax_compilation_cache_dir", str(own.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_raise_persistent_cache_errors", False)
    return own


def machine() -> str:
    """A short name of this kind of machine: its architecture, and a digest of its features."""
    facts = [platform.machine(), platform.processor(), version("jaxlib"), _features()]
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()
    return f"{platform.machine() or 'unknown'}-{digest}"


def _usual() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "funnet" / "jax"


def _features() -> str:
    """The processor's model and features, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
