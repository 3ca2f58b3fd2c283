"""What holds of every recipe: its length, its header, its flags, its place in the README."""

import dataclasses
import importlib
import pathlib

import pytest
import tyro

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "recipes").glob("[a-z]*.py"))

pytestmark = pytest.mark.parametrize("name", [path.stem for path in FILES])


def settings_of(name):
    return importlib.import_module(f"recipes.{name}").Settings


def test_it_is_a_page_or_two_that_says_what_it_claims(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf8")
    header = importlib.import_module(f"recipes.{name}").__doc__
    assert len(text.splitlines()) < 150
    assert f"python -m recipes.{name}" in header
    assert "laim" in header


def test_it_has_the_settings_that_all_have(name):
    fields = {field.name: field.default for field in dataclasses.fields(settings_of(name))}
    common = {"seed": 0, "folder": None, "check": False, "cache": None}
    assert {key: fields.get(key, "missing") for key in common} == common


def test_help_lists_them_and_a_wrong_flag_is_refused(name, capsys):
    with pytest.raises(SystemExit) as caught:
        tyro.cli(settings_of(name), args=["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(flag in printed for flag in ("--seed", "--folder", "--check", "--cache"))
    with pytest.raises(SystemExit) as caught:
        tyro.cli(settings_of(name), args=["--sead", "3"])
    assert caught.value.code == 2
    assert "--sead" in capsys.readouterr().err


def test_the_readme_has_it(name):
    assert f"`python -m recipes.{name}" in (ROOT / "README.md").read_text(encoding="utf8")
