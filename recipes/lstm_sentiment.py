"""Sentiment where the order of words decides: a bidirectional LSTM, against counts of words.

    python -m recipes.lstm_sentiment

It makes its reviews, such as "although the plot was not bad , the ending was anything but clever";
no combination of templates, and no noun with an adjective, is in both training and test set.

Claim, on 4,000 new reviews, settings chosen on combinations held out of training's: the LSTM 100 %
(mean of 3 seeds, least 100 %); a logistic regression on counts of words 50.2 %, of pairs of words
too 74.0 %, of triples too 76.3 %. All in 23 s of one x86 server core, imports and compilation
included.
"""

import dataclasses
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro

import funnet as fn
from funnet import picture

NOUNS = "plot acting ending music script pacing dialogue camerawork cast humour sound editing"
GOOD = "good great superb clever moving funny brilliant gripping charming subtle fresh witty"
BAD = "bad awful dull clumsy boring stale terrible tedious shallow silly weak messy"
CLAUSES = (  # FIT is an adjective that says what the clause means, UNFIT one of the contrary
    "the NOUN was FIT | the NOUN was really FIT | the NOUN was nothing if not FIT"
    " | nobody could deny that the NOUN was FIT | I cannot say that the NOUN was not FIT"
    " | the NOUN was FIT , not UNFIT | the NOUN was not UNFIT but FIT | the NOUN was not UNFIT"
    " | the NOUN was far from UNFIT | the NOUN was anything but UNFIT"
    " | nobody could call the NOUN UNFIT | I cannot say that the NOUN was UNFIT"
)
REVIEWS = (  # PRO is a clause for the verdict, CON one against it
    "PRO | PRO , and PRO | CON , but PRO | although CON , PRO | PRO , although CON"
    " | no matter that CON , PRO | PRO , no matter that CON | CON , but although CON , PRO"
)
VOCAB = sorted(set(" ".join([NOUNS, GOOD, BAD, CLAUSES, REVIEWS]).split()))


@dataclasses.dataclass
class Settings:
    """How much to train, on what."""

    sentences: int = 20_000
    epochs: float = 4
    width: int = 32
    learning_rate: float = 5e-3
    kinds: int = 8  # how many of the kinds of review; the first two do not contradict themselves
    seed: int = 0
    holdout: bool = False  # measure on combinations of the training set's instead
    folder: Path | None = None  # by default runs/lstm_sentiment, or runs/lstm_sentiment-check
    check: bool = False  # train on one kind for seconds, and verify what comes of it
    cache: Path | None = None  # keep compilations in this folder, for the next time


def review(rng: random.Random, kinds: int, folds: set[int]) -> tuple[str, int]:
    """A review, 1 if it is good else 0; all its combinations fall into `folds`, see below."""
    good, kind = rng.randrange(2), rng.choices(range(kinds), [3, 3, 1, 1, 1, 1, 1, 1][:kinds])[0]
    template, clauses, words = REVIEWS.split(" | ")[kind], CLAUSES.split(" | "), []
    forms = rng.choices(range(12), k=template.count("PRO") + template.count("CON"))
    if len(forms) > 1 and (kind + sum(forms)) % 5 not in folds:
        return review(rng, kinds, folds)  # a combination's fold: its parts' numbers, added modulo 5
    for word, noun in zip(template.split(), rng.sample(range(12), 12), strict=False):
        if word in ("PRO", "CON"):
            fitting = [i for i in range(12) if (noun + i) % 5 in folds]
            sides = (GOOD, BAD) if good == (word == "PRO") else (BAD, GOOD)
            fit, unfit = (side.split()[rng.choice(fitting)] for side in sides)
            fill = {"NOUN": NOUNS.split()[noun], "FIT": fit, "UNFIT": unfit}
            word = " ".join(fill.get(w, w) for w in clauses[forms.pop()].split())
        words.append(word)
    return " ".join(words), good


def data(count: int, kinds: int, folds: set[int], seed: int) -> dict[str, np.ndarray]:
    """So many reviews of some folds, their words by number, with zeros behind the last."""
    rng = random.Random(seed)
    found, labels = zip(*(review(rng, kinds, folds) for _ in range(count)), strict=True)
    token, lengths = fn.data.padded(
        [[VOCAB.index(word) for word in text.split()] for text in found]
    )
    return {"token": token, "lengths": lengths, "label": np.array(labels, np.int32)}


def texts(data: dict[str, np.ndarray]) -> list[str]:
    """The reviews in words."""
    rows = zip(data["token"], data["lengths"], strict=True)
    return [" ".join(VOCAB[i] for i in ids[:length]) for ids, length in rows]


def counted(most: int, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> float:
    """The accuracy of a logistic regression on counts of words, and of runs up to `most` words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counts = CountVectorizer(token_pattern=r"\S+", lowercase=False, ngram_range=(1, most))
    x, y = counts.fit_transform(texts(train)), train["label"]
    fitted = LogisticRegression(max_iter=1000).fit(x, y)
    return float(fitted.score(counts.transform(texts(test)), test["label"]))


def draw(path: Path, model: fn.Model, params: Any, test: dict[str, np.ndarray]) -> None:
    """A picture of reviews, each word in the colour of the verdict on all words up to it."""
    ids, size = test["token"][:24], test["token"].shape[1]
    ends = np.tile(np.arange(1, size + 1), len(ids))  # each review is cut after each of its words
    logits = jax.jit(model)(params, np.repeat(ids, size, 0), lengths=ends)
    shades = 2 * jax.nn.softmax(logits)[:, 1].reshape(ids.shape) - 1
    rows = zip([text.split() for text in texts(test)], shades, test["label"], strict=False)
    lines = [("good" if label else "bad", words, row[: len(words)]) for words, row, label in rows]
    picture.words(path, lines, title="The verdict after each word: bad is red, good is blue")


def main(settings: Settings) -> dict[str, float]:
    """Trains, tests beside the counts, and draws; returns the accuracies."""
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    folder = settings.folder or Path("runs/lstm_sentiment" + "-check" * settings.check)
    if settings.check:
        settings = dataclasses.replace(settings, sentences=4000, epochs=8, kinds=1)
    learnt, asked = ({2, 3, 4}, {1}) if settings.holdout else ({1, 2, 3, 4}, {0})
    train = data(settings.sentences, settings.kinds, learnt, 0)
    test = data(settings.sentences // 5, settings.kinds, asked, 1)

    how = {"boundaries": (10, 20, 32), "sequences": "token", "seed": settings.seed}
    batches = fn.data.bucketed(train, 64, **how)
    shape = {"classes": 2, "vocab": len(VOCAB), "width": settings.width, "rate": 0.2}
    model = fn.Model(fn.models.lstm_classifier, **shape)
    objective = fn.classification(model, input="token", lengths="lengths")
    steps = batches.steps(settings.epochs)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    run = fn.Run.start(model, optimizer, train["token"], seed=settings.seed)
    step = fn.train_step(objective, optimizer)
    run = fn.fit(step, run, batches, steps=steps, folder=folder, settings=settings)

    found = {"LSTM": fn.evaluate(objective, run, test)["accuracy"]}
    found |= {f"counts of runs up to {n}": counted(n, train, test) for n in (1, 2, 3)}
    print("\n".join(f"{name}: {accuracy:.2%}" for name, accuracy in found.items()))
    draw(folder / "words.png", model, run.params, test)
    if settings.check:
        fn.claim("accuracy of the LSTM", found["LSTM"], at_least=0.9)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings))
