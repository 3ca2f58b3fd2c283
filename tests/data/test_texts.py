"""Texts come back as they lie, as numbers and in rows; Tiny Shakespeare is found or downloaded."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_files import md5

import funnet as fn
from funnet.data import sources
from funnet.data.download import Download

TEXT = "To be,\r\nor not — to be:\n"


@given(st.text(min_size=1, max_size=50))
def test_numbers_stand_for_the_characters_of_a_text(text):
    ids, alphabet = fn.data.characters(text)
    assert ids.dtype == np.uint8
    assert "".join(alphabet[i] for i in ids) == text
    assert list(alphabet) == sorted(set(text))


@pytest.mark.parametrize("text", ["", "".join(map(chr, range(300)))])
def test_a_text_of_no_or_too_many_characters_is_refused(text):
    with pytest.raises(ValueError, match=f"different characters, got {len(text)}"):
        fn.data.characters(text)


@pytest.mark.parametrize(("size", "length"), [(2, 1), (7, 3), (8, 3), (9, 8)])
def test_windows_are_cut_one_by_one(size, length):
    ids = np.random.default_rng(0).integers(0, 9, size)
    rows = fn.data.windows(ids, length)
    starts = [i for i in range(0, size, length) if i + length < size]
    np.testing.assert_array_equal(rows["text"], [ids[i : i + length] for i in starts])
    np.testing.assert_array_equal(rows["label"], [ids[i + 1 : i + length + 1] for i in starts])


@pytest.mark.parametrize(
    ("ids", "length", "told"),
    [
        (np.zeros((2, 3)), 1, "ids must have"),
        (np.zeros(1), 1, "ids must"),
        (np.zeros(4), 4, "<= 3"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(ids, length, told):
    with pytest.raises(ValueError, match=told):
        fn.data.windows(ids, length)


def test_the_text_that_python_brings_along_is_long():
    name, text = fn.data.first_of("python_docs")
    assert name == "python_docs"
    assert len(text) > 300_000


def test_tiny_shakespeare_is_read_as_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(TEXT.encode())
    assert fn.data.tiny_shakespeare(download=False) == TEXT
    assert fn.data.first_of("tiny_shakespeare", "python_docs") == ("tiny_shakespeare", TEXT)


def test_tiny_shakespeare_is_downloaded_once(monkeypatch, server, tmp_path):
    content = TEXT.encode()
    server.files["/input.txt"] = content
    source = dataclasses.replace(
        sources.SOURCES["tinyshakespeare"],
        downloads=(Download("input.txt", len(content), md5(content)),),
        mirrors=(server.url,),
    )
    monkeypatch.setitem(sources.SOURCES, "tinyshakespeare", source)
    assert fn.data.tiny_shakespeare() == fn.data.tiny_shakespeare() == TEXT
    assert len(server.requests) == 1
    assert (tmp_path / "cache/funnet/tinyshakespeare/input.txt").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xff"])
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"input\.txt.*expected a text"):
        fn.data.tiny_shakespeare(tmp_path)
