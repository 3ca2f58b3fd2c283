"""What several tests of training ask for."""

import json

import pytest


def _strict(name):
    raise ValueError(f"{name} is no JSON")


@pytest.fixture
def lines():
    """A function of a folder: the lines of its metrics file, each strictly JSON."""

    def read(folder, name="metrics.jsonl"):
        text = (folder / name).read_text(encoding="utf8")
        assert not text or text.endswith("\n")
        return [json.loads(line, parse_constant=_strict) for line in text.splitlines()]

    return read
