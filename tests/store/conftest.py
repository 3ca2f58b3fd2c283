"""What tests of the disk ask for: disks of their own, small ones, that can be filled or locked."""

import contextlib
import subprocess

import pytest


def mount(*arguments):
    """Whether a mount command has succeeded."""
    try:
        return (
            subprocess.run(["mount", *arguments], capture_output=True, timeout=20).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


class Disk:
    """A disk of its own, as small as it says."""

    def __init__(self, place):
        self.place = place

    @contextlib.contextmanager
    def full(self):
        """No byte is left on it."""
        filler = self.place / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"1")
        yield
        filler.unlink()

    @contextlib.contextmanager
    def read_only(self):
        """It can only be read."""
        if not mount("-o", "remount,ro", str(self.place)):
            pytest.skip("a disk may not be mounted anew here")
        try:
            yield
        finally:
            assert mount("-o", "remount,rw", str(self.place))


@pytest.fixture
def disk(tmp_path):
    """A disk of 128 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)):
        pytest.skip("a disk may not be mounted here")
    yield Disk(place)
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def tiny_disk(disk):
    """The folder of a disk of 128 KiB, where one may be mounted."""
    return disk.place
