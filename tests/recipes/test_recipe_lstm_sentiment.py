"""The recipe of sentiment: a run, and a grammar whose verdicts are checked by rules of our own."""

import itertools
import json
import random
import re

import numpy as np
import pytest
from PIL import Image

from recipes import lstm_sentiment
from recipes.lstm_sentiment import BAD, GOOD, NOUNS

# The run of --check


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A checked run: its settings, and the accuracies."""
    folder = tmp_path_factory.mktemp("runs") / "lstm_sentiment"
    settings = lstm_sentiment.Settings(check=True, folder=folder)
    return settings, lstm_sentiment.main(settings)


def test_the_claim_holds_and_files_are_left(checked):
    settings, found = checked
    assert found["LSTM"] >= 0.9 > 0.6 > found["counts of runs up to 1"]
    names = {path.name for path in settings.folder.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "run.json", "words.png"} <= names
    told = json.loads((settings.folder / "run.json").read_text(encoding="utf8"))
    assert told["settings"]["kinds"] == 1


def test_the_picture_has_a_line_for_each_of_its_reviews(checked):
    settings, _ = checked
    with Image.open(settings.folder / "words.png") as image:
        assert image.size[1] == 22 * 25 + 6


def test_a_second_run_over_the_first_is_finished(checked):
    settings, found = checked
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert lstm_sentiment.main(settings) == found
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


# The grammar, read by rules of this file's own

ADJECTIVE = "|".join((GOOD + " " + BAD).split())
SAYS = {  # which adjective counts, and whether it is meant
    r"the \w+ was nothing if not (\w+)": True,
    r"the \w+ was not \w+ but (\w+)": True,
    r"the \w+ was (\w+) , not \w+": True,
    r"nobody could deny that the \w+ was (\w+)": True,
    r"I cannot say that the \w+ was not (\w+)": True,
    r"I cannot say that the \w+ was (\w+)": False,
    r"nobody could call the \w+ (\w+)": False,
    r"the \w+ was (?:not|far from|anything but) (\w+)": False,
    r"the \w+ was (?:really )?(\w+)": True,
}
CLAUSE = "|".join(re.sub(r"\((?!\?)", "(?:", pattern) for pattern in SAYS)
VERDICT = [  # where the clause is that decides
    rf"(?:{CLAUSE}) , but although (?:{CLAUSE}) , ({CLAUSE})",
    rf"(?:{CLAUSE}) , but ({CLAUSE})",
    rf"(?:although|no matter that) (?:{CLAUSE}) , ({CLAUSE})",
    rf"({CLAUSE}) , (?:although|no matter that) (?:{CLAUSE})",
    rf"(?:{CLAUSE}) , and ({CLAUSE})",
    rf"({CLAUSE})",
]


def verdict(text):
    """What a review says, 1 for good."""
    decides = next(m.group(1) for p in VERDICT if (m := re.fullmatch(p, text)))
    word, says = next(
        (m.group(1), says) for p, says in SAYS.items() if (m := re.fullmatch(p, decides))
    )
    return int((word in GOOD.split()) == says)


def drawn(count, folds, kinds=8):
    rng = random.Random(3)
    return [lstm_sentiment.review(rng, kinds, folds) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("the plot was not bad , but the ending was awful", 0),
        ("the plot was not bad but awful", 0),
        ("although the plot was great , the cast was anything but clever", 0),
        ("the plot was clever , not dull , no matter that the cast was far from funny", 1),
    ],
)
def test_the_rules_of_this_file_read_as_people_do(text, good):
    assert verdict(text) == good


def test_verdicts_are_what_the_words_say():
    reviews = drawn(1500, {0, 1, 2, 3, 4})
    assert all(verdict(text) == label for text, label in reviews)
    assert abs(np.mean([label for _, label in reviews]) - 0.5) < 0.06
    assert {text.count(",") > 0 for text, _ in reviews} == {True, False}


def skeleton(text):
    """A review without its nouns and adjectives."""
    return re.sub(rf"\b(?:{ADJECTIVE})\b", "WORD", re.sub("|".join(NOUNS.split()), "NOUN", text))


def pairs(text):
    """Each noun with the adjectives of its clause."""
    noun = "|".join(NOUNS.split())
    for clause in re.findall(rf"(?:{noun}) .*?(?=the (?:{noun})|$)", text):
        name, *rest = clause.split()
        yield from ((name, word) for word in rest if word in f"{GOOD} {BAD}".split())


def test_what_is_tested_on_is_new():
    learnt, asked = drawn(3000, {1, 2, 3, 4}), drawn(3000, {0})
    both = [[skeleton(text) for text, _ in part if "the" in text] for part in (learnt, asked)]
    several = [{s for s in part if s.count("NOUN") > 1} for part in both]
    single = [{s for s in part if s.count("NOUN") == 1} for part in both]
    assert not several[0] & several[1]
    assert len(several[1]) > 100
    assert single[0] == single[1]
    found = [set(itertools.chain(*(pairs(text) for text, _ in part))) for part in (learnt, asked)]
    assert not found[0] & found[1]
    assert len(found[0] | found[1]) == 12 * 24
    known = {word for text, _ in learnt for word in text.split()}
    assert {word for text, _ in asked for word in text.split()} <= known


def test_data_are_the_reviews_in_numbers():
    made = lstm_sentiment.data(20, 8, {0}, 3)
    rng = random.Random(3)
    reviews = [lstm_sentiment.review(rng, 8, {0}) for _ in range(20)]
    assert lstm_sentiment.texts(made) == [text for text, _ in reviews]
    assert made["label"].tolist() == [label for _, label in reviews]
    assert made["lengths"].tolist() == [len(text.split()) for text, _ in reviews]


def test_counting_finds_what_words_tell_and_not_what_order_tells():
    number = {word: i for i, word in enumerate(lstm_sentiment.VOCAB)}

    def of(texts, labels):
        token = np.array([[number[word] for word in text.split()] for text in texts], np.int32)
        lengths = np.full(len(texts), token.shape[1], np.int32)
        return {"token": token, "lengths": lengths, "label": np.array(labels, np.int32)}

    told = of(["the plot was good", "the plot was bad"] * 4, [1, 0] * 4)
    assert lstm_sentiment.counted(1, told, told) == 1
    order = of(["good was not bad", "bad was not good"] * 4, [1, 0] * 4)
    assert lstm_sentiment.counted(1, order, order) == 0.5
    assert lstm_sentiment.counted(2, order, order) == 1
