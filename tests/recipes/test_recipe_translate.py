"""The recipe that translates dates: its data, its small claim, and what it leaves behind."""

import datetime
import json

import jax
import numpy as np
import pytest
from PIL import Image

import funnet as fn
from recipes import translate

FORMS = translate.FORMATS.split(" | ")
MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
MONTHS += ["August", "September", "October", "November", "December"]
EVERY = np.arange("1950", "2050", dtype="datetime64[D]").tolist()

# The run of --check


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is compiled here is run for a second."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def checked(quick, tmp_path_factory):
    """A checked run: its settings, and the share that is exact."""
    folder = tmp_path_factory.mktemp("runs") / "translate"
    settings = translate.Settings(check=True, folder=folder)
    return settings, translate.main(settings)


def test_the_claim_holds_and_files_are_left(checked):
    settings, share = checked
    assert 0.9 <= share <= 1
    names = {path.name for path in settings.folder.iterdir()}
    assert {"attention.png", "checkpoints", "examples.txt", "metrics.jsonl", "run.json"} <= names
    told = json.loads((settings.folder / "run.json").read_text(encoding="utf8"))
    assert told["settings"]["formats"] == 1


def test_the_table_has_texts_translations_and_scores(checked):
    settings, share = checked
    lines = (settings.folder / "examples.txt").read_text(encoding="utf8").splitlines()
    assert len(lines) == 40
    wrong = [line for line in lines if line.startswith("wrong")]
    assert len(wrong) == min(40, round((1 - share) * 200))
    for line in lines:
        source, best, first, _, second = line.removeprefix("wrong").split()
        assert (source.replace("/", "-") == best) == (line not in wrong)
        assert 0 >= float(first) >= float(second)


def test_the_picture_shows_four_texts(checked):
    settings, _ = checked
    with Image.open(settings.folder / "attention.png") as image:
        assert image.size[1] == 22 * (1 + 4 * 12)


def test_a_second_run_over_the_first_is_finished(checked, capsys):
    settings, share = checked
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert translate.main(settings) == share
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


# Data


def read_back(text, form):
    """The date that a text means, by the standard library's reader, or by the format's words."""
    if "{" not in form:
        return datetime.datetime.strptime(text, form).date()
    words = text.replace(",", " ").replace("/", " ").replace(".", " ").replace("'", " ").split()
    numbers = [word.rstrip("stndrh") for word in words if word[0].isdigit()]
    year = next(n for n in numbers if len(n) == 4) if "%Y" in form else numbers[-1]
    numbers.remove(year)
    if form == "{month}/{day}/%Y":
        month, day = numbers
    elif form == "{day}.{month}.%Y":
        day, month = numbers
    else:
        (day,) = numbers
        (month,) = [i for i, m in enumerate(MONTHS, 1) if m in words or m[:3] in words]
    year = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= 50 else 2000)
    return datetime.date(year, int(month), int(day))


@pytest.mark.parametrize("form", FORMS)
def test_texts_mean_their_dates(form):
    for date in EVERY[::37]:
        text = translate.written(date, form)
        assert text.isascii()
        found = read_back(text, form)
        if "{" not in form and "%y" in form:  # the library's hundred years begin in 1969
            found = found.replace(year=found.year - 100 * (found.year >= 2050))
        assert found == date, text


def test_ordinals():
    ends = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th"}
    ends |= {21: "21st", 22: "22nd", 23: "23rd", 30: "30th", 31: "31st"}
    for day, expected in ends.items():
        assert translate.written(datetime.date(1987, 3, day), "{day}{th}") == expected


def test_no_text_means_two_dates_and_the_longest_fits():
    meant = {}
    for date in EVERY[5::11]:
        for form in FORMS:
            text = translate.written(date, form)
            assert len(text) <= translate.LONGEST
            assert meant.setdefault(text, date) == date
    assert len(FORMS) == len(set(FORMS)) == 16


def test_no_year_and_day_is_both_trained_and_tested_on():
    train, test = translate.data(FORMS[:1])
    held = fn.data.hold_out(train, 200)
    seen = [
        {(text[:4], text[8:]) for text in map(translate.text, part["label"])}
        for part in (train, test, held[1])
    ]
    assert not seen[0] & seen[1]
    assert len(seen[1]) > 250
    assert len(seen[0] | seen[1]) == 100 * 31
    assert len(test["label"]) == 2000
    assert len({translate.text(row) for row in test["label"]}) == 2000
    whole = {(text[:4], text[8:]) for text in map(translate.text, held[0]["label"])}
    assert len(whole & seen[2]) <= 1  # the pair that the cut goes through


def test_examples_are_letters():
    dates = np.array(["1987-03-02", "2012-11-30"], "datetime64[D]")
    made = translate.examples(dates, ["{month}/{day}/%Y"], np.random.default_rng(0))
    assert [translate.text(row) for row in made["source"]] == ["3/2/1987", "11/30/2012"]
    assert made["lengths"].tolist() == [8, 10]
    assert made["before"][0].tolist() == [2, *b"1987-03-02"]
    assert made["label"][0].tolist() == [*b"1987-03-02", 3]
    assert made["source"].shape == (2, translate.LONGEST)
