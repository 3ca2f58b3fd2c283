"""A disk whose power may be cut at any moment, and what it may then hold.

`Recorder` watches a real folder while something writes there: around every call that orders or
renames, it compares the folder with what was there before, and so learns of each change, whoever
made it. `Disk` replays the changes and holds what POSIX lets a power cut leave:

- the bytes of a file are those of its last flush; changed since, they may also be the new ones,
  cut short, zeros or garbage;
- the names in a folder are those of its last flush; of what was made, renamed and removed since,
  any part may have happened. A rename happens or does not.
"""

import builtins
import dataclasses
import os
from pathlib import Path

from funnet.store import tensors

CALLS = [
    *((os, call) for call in ("open", "mkdir", "rename", "replace", "fsync", "truncate")),
    *((os, call) for call in ("unlink", "remove", "rmdir")),
    *((Path, "write_bytes"), (builtins, "open"), (tensors, "save_file")),  # for shorter steps
]


@dataclasses.dataclass
class Node:
    """A file or a folder: what of it is on disk for sure, and what has happened since."""

    folder: bool
    now: object  # the names of a folder, the bytes of a file
    flushed: object
    pending: list = dataclasses.field(default_factory=list)  # changes of names, or older bytes


class Disk:
    """What is on a disk, by number; the root is number 0."""

    def __init__(self):
        self.nodes = {0: Node(True, {}, {})}

    def make(self, number, content):
        """A new file, or a folder where `content` is None; it has no name yet."""
        folder = content is None
        self.nodes[number] = Node(folder, {} if folder else content, {} if folder else b"")
        if not folder:
            self.nodes[number].pending = [content]

    def change(self, number, content):
        """A file has other bytes."""
        self.nodes[number].now = content
        self.nodes[number].pending.append(content)

    def name(self, number, names):
        """One change to the names of a folder: numbers by name, None where a name goes."""
        node = self.nodes[number]
        node.now = applied(node.now, [names])
        node.pending.append(names)

    def flush(self, number):
        """All that has happened to a file or folder is on disk."""
        node = self.nodes[number]
        node.flushed, node.pending = node.now, []

    def settle(self):
        """All that has happened is on disk."""
        for number in self.nodes:
            self.flush(number)

    def doubts(self):
        """How many changes of names are not on disk for sure, and which files' bytes."""
        names = sum(len(self.nodes[n].pending) for n in self._folders())
        return names, [n for n in self._near() if self._in_doubt(n)]

    def left(self, happened, bytes_of):
        """What a power cut leaves: nested dicts of bytes.

        Args:
            happened: for each change of names that is in doubt, whether it has happened.
            bytes_of: how to find what a file holds whose bytes are in doubt, by its number.
        """
        happened = iter(happened)
        nodes = {n: self.nodes[n] for n in self._folders()}
        names = {
            n: applied(node.flushed, [change for change in node.pending if next(happened)])
            for n, node in nodes.items()
        }
        return self._tree(0, names, bytes_of)

    def _tree(self, number, names, bytes_of):
        if number in names:
            return {name: self._tree(n, names, bytes_of) for name, n in names[number].items()}
        node = self.nodes[number]
        return bytes_of[number](node) if node.pending else node.flushed

    def _near(self, number=0):
        """The numbers that may be found from a folder on."""
        node = self.nodes[number]
        yield number
        if node.folder:
            changes = [node.flushed, *node.pending]
            for child in sorted({n for names in changes for n in names.values()} - {None}):
                yield from self._near(child)

    def _folders(self):
        return list(dict.fromkeys(n for n in self._near() if self.nodes[n].folder))

    def _in_doubt(self, number):
        return not self.nodes[number].folder and self.nodes[number].pending


def applied(names, changes):
    """The names of a folder after some changes."""
    for change in changes:
        names = {name: n for name, n in {**names, **change}.items() if n is not None}
    return names


BYTES = {
    "lost": lambda node: node.flushed,
    "written": lambda node: node.now,
    "cut short": lambda node: node.now[: len(node.now) // 2],
    "all but one": lambda node: node.now[:-1],
    "zeros": lambda node: bytes(len(node.now)),
    "half zeros": lambda node: node.now[: len(node.now) // 2].ljust(len(node.now), b"\0"),
    "garbage": lambda node: bytes(x ^ 0x5A for x in node.now),
}


def adversaries(doubts):
    """Some of the ways in which changes of names in doubt may have happened: all, if few."""
    if doubts <= 5:
        return [[i >> k & 1 for k in range(doubts)] for i in range(2**doubts)]
    ones = [[int(k == i) for k in range(doubts)] for i in range(doubts)]
    others = [[1 - x for x in one] for one in ones]
    firsts = [[int(k < i) for k in range(doubts)] for i in range(doubts + 1)]
    return [*ones, *others, *firsts, *([1 - x for x in first] for first in firsts)]


def choices(files):
    """What files in doubt may hold: all alike, or one unlike the others, which are written."""
    for kind in BYTES.values():
        yield dict.fromkeys(files, kind)
        for other in files if len(files) > 1 else ():
            yield {**dict.fromkeys(files, BYTES["written"]), other: kind}


def outcomes(disk):
    """What a power cut may leave now: what an adversary would choose."""
    names, files = disk.doubts()
    for happened in adversaries(names):
        for bytes_of in choices(files):
            yield disk.left(happened, bytes_of)


class Recorder:
    """Watches a folder while it is entered; `moments` is the disk after each call, and its name.

    Args:
        root: the folder; what is in it when it is entered is on disk for sure.
        patch: pytest's monkeypatch.
    """

    def __init__(self, root, patch):
        self.root, self.patch = Path(root), patch
        self.changes = []  # functions of a disk, each with the name of the call
        self.marks = {}  # by how many changes there were: what had been done by then
        self.numbers, self.fresh = {os.stat(root).st_ino: 0}, 1
        self.seen = {}

    def __enter__(self):
        self._look("before")
        self.before = len(self.changes)
        self.usual = [(*place, getattr(*place)) for place in CALLS]
        for where, call, usual in self.usual:
            self.patch.setattr(where, call, self._watched(call, usual))
        return self

    def __exit__(self, *_):
        self._look("at the end")
        for where, call, usual in self.usual:
            self.patch.setattr(where, call, usual)

    def mark(self, what):
        """Notes that by now something is done."""
        self._look("then")
        self.marks[what] = len(self.changes)

    def moments(self):
        """The disk after each change, and how many there were; the same disk, that goes on."""
        disk = Disk()
        for _, change in self.changes[: self.before]:
            change(disk)
        disk.settle()
        yield self.before, disk
        for i, (_, change) in enumerate(self.changes[self.before :], self.before + 1):
            change(disk)
            yield i, disk

    def _watched(self, call, usual):
        def watched(*args, **how):
            self._look(f"before {call}")
            flushed = self._number_of(args[0]) if call == "fsync" else None
            result = usual(*args, **how)
            if flushed is not None:
                self.changes.append(("fsync", lambda disk: disk.flush(flushed)))
            self._look(call)
            return result

        return watched

    def _number_of(self, handle):
        return self.numbers.get(os.fstat(handle).st_ino)

    def _look(self, call):
        """Adds what has changed since the last look: new things, bytes, then names."""
        found, inodes = {}, {}
        self._walk(self.root, 0, found, inodes)
        for inode in [
            inode for inode in self.numbers if inode not in inodes and self.numbers[inode]
        ]:
            del self.numbers[inode]  # which another file may have next
        self._compare(call, found)
        self.seen = found

    def _walk(self, path, number, found, inodes):
        """The names of folders and the bytes of files by number."""
        found[number] = names = {}
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            inode = entry.stat(follow_symlinks=False).st_ino
            if inode not in self.numbers or self._is_another(inode, entry):
                self.numbers[inode], self.fresh = self.fresh, self.fresh + 1
            child = names[entry.name] = inodes[inode] = self.numbers[inode]
            if entry.is_dir(follow_symlinks=False):
                self._walk(entry.path, child, found, inodes)
            else:
                found[child] = Path(entry.path).read_bytes()

    def _is_another(self, inode, entry):
        """Whether an inode's number was a folder and now is a file, or the other way."""
        seen = self.seen.get(self.numbers[inode])
        return seen is not None and isinstance(seen, dict) != entry.is_dir(follow_symlinks=False)

    def _compare(self, call, found):
        for number, content in found.items():
            new, folder = number not in self.seen and number != 0, isinstance(content, dict)
            if new:
                self._add(call, "make", number, None if folder else content)
            elif not folder and content != self.seen[number]:
                self._add(call, "change", number, content)
        for number, names in found.items():
            if isinstance(names, dict):
                self._add_names(call, number, self.seen.get(number, {}), names)

    def _add_names(self, call, number, old, new):
        """A rename is one change; whatever else is a change a name."""
        changed = {name: new.get(name) for name in {**old, **new} if old.get(name) != new.get(name)}
        moved = {old[name] for name in changed if name in old and old[name] in changed.values()}
        rename = {name: n for name, n in changed.items() if n in moved or old.get(name) in moved}
        for change in [rename, *({name: n} for name, n in changed.items() if name not in rename)]:
            if change:
                self._add(call, "name", number, change)

    def _add(self, call, what, *args):
        self.changes.append((call, lambda disk: getattr(disk, what)(*args)))


def put(tree, place):
    """Makes real what a power cut has left, in a folder that is not there yet."""
    os.mkdir(place)
    for name, content in tree.items():
        if isinstance(content, dict):
            put(content, place / name)
        else:
            (place / name).write_bytes(content)
