"""Small checkpoints and files for the tests of what is on disk, and their equality."""

import numpy as np

from funnet.store.checkpoints import Checkpoints

OLD = {"w": np.float32([1, -2]), "n": np.array(7, np.int32)}
NEW = {"w": np.float32([3, 0.5]), "n": np.array(8, np.int32)}


def same(found, wanted):
    """Whether two dicts of arrays are the same to the bit."""
    if found.keys() != wanted.keys():
        return False
    pairs = [(np.asarray(found[name]), np.asarray(wanted[name])) for name in wanted]
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)


def two_kept(folder):
    """A folder with an old checkpoint, of step 100, and a new one, of step 200."""
    folder.mkdir(exist_ok=True)
    kept = Checkpoints(folder)
    kept.write(100, OLD, {"told": "old"})
    kept.write(200, NEW, {"told": "new"})
    return kept
