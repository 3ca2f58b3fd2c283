"""The table of data sets, the digits, and the real MNIST where it is at hand."""

import builtins
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from made_files import assert_holds, idx

from funnet.data.sources import SOURCES, digits, mnist

REAL = os.environ.get("FUNNET_DATA", "")


def test_digits_are_scikit_learns_in_order():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    train, test = digits()
    assert train["image"].shape == (1437, 8, 8, 1)
    scaled = np.array([round(level * 255 / 16) for level in range(17)])
    images = scaled[bunch.images.astype(int)][..., None]
    assert_holds(train, images[:1437], bunch.target[:1437])
    assert_holds(test, images[-360:], bunch.target[-360:])
    assert images.min() == 0
    assert images.max() == 255


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    true_import = builtins.__import__

    def refuse(name, *args):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return true_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[recipes\]'"):
        digits()


@pytest.mark.parametrize("name", SOURCES)
def test_entries_can_be_downloaded_and_then_found(name):
    source = SOURCES[name]
    downloaded = {item.name for item in source.downloads}
    endings = {True: ".gz", False: ""}
    wanted = [{n + endings[x.packed] for n in x.names} for x in source.layouts if not x.subfolder]
    assert downloaded in wanted
    assert all(len(bytes.fromhex(item.md5)) == 16 for item in source.downloads)
    assert all(url.startswith("http") and url.endswith("/") for url in source.mirrors)


@pytest.mark.skipif(not (Path(REAL) / "mnist").is_dir() or not REAL, reason="no FUNNET_DATA")
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("FUNNET_DATA", REAL)
    train, test = mnist(download=False)
    assert train["image"].shape == (60000, 28, 28, 1)
    assert test["image"].shape == (10000, 28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train["label"]).tolist() == counts
    content = idx(train["image"][..., 0])  # the published checksum is of the whole file
    assert hashlib.md5(content).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
