"""The line is recovered."""

import pathlib
import re
import subprocess
import sys

import pytest

from recipes import linear_regression

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_line_is_recovered(seed, capsys):
    slope, intercept = linear_regression.main(linear_regression.Settings(seed=seed))
    assert abs(slope - 2) < 1e-3
    assert abs(intercept - 3) < 1e-3
    assert re.match(r"y = 2\.0000 x \+ 3\.0000, loss \d", capsys.readouterr().out)


def test_the_line_is_the_same_each_time():
    settings = linear_regression.Settings(steps=20, seed=7)
    assert linear_regression.main(settings) == linear_regression.main(settings)


def test_a_line_that_is_not_recovered_is_not_claimed():
    with pytest.raises(AssertionError, match="claimed at most"):
        linear_regression.main(linear_regression.Settings(steps=20, check=True))


def test_the_command_line_trains_and_checks():
    command = [sys.executable, "-m", "recipes.linear_regression", "--check", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("y = 2.0000 x + 3.0000")
    assert "claimed at most 0.001" in done.stdout
    assert "step 500/500" in done.stderr
