"""Translation, letter by letter: dates in sixteen ways of writing to ISO 8601, with beam search.

    python -m recipes.translate
    python -m recipes.translate --beams 1    # the same training, translated greedily

The same command again goes on where it was stopped, or translates with what is finished. It makes
its data, the days of a hundred years. Of those that it is tested on, training has seen no day of
the same year and day of the month, so that nothing can be answered by heart.

Claim, of 2,000 such days, settings chosen on held-out training days: 99.92 % are right to the last
letter (mean of 3 seeds, least 99.85 %) after 100 s of one x86 server core, imports, compilation and
search included. Greedy search gets as many right; the beams tell how sure the best is.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import funnet as fn
from funnet import picture

FORMATS = (  # with slashes and the year behind, the month comes first
    "%Y/%m/%d | {month}/{day}/%Y | %d.%m.%Y | {day}.{month}.%Y | %Y%m%d | %d-%b-%y | %b {day}, %y"
    " | {day} %b '%y | %a %b %d %Y | %B {day}, %Y | %Y, %B {day}{th} | {day}{th} of %B %Y"
    " | %B the {day}{th}, %Y | %A, {day} %B %Y | %A, %B {day}{th}, %Y"
    " | the {day}{th} day of %B in %Y"
)
LONGEST, ISO = 34, 10  # letters of a text, and of what it becomes
START, END = 2, 3  # what ASCII calls the start and the end of a text
SHAPE = {"vocab": 128, "width": 64, "heads": 4, "context": LONGEST}
CHECK = {"steps": 320, "batch": 16, "depth": 1, "learning_rate": 6e-3, "formats": 1, "holdout": 200}


@dataclasses.dataclass
class Settings:
    """How long to train, and how wide to search."""

    steps: int = 2000
    batch: int = 64
    depth: int = 2  # blocks of the encoder, and of the decoder
    learning_rate: float = 3e-3
    formats: int = 16  # how many of them
    beams: int = 4
    seed: int = 0
    holdout: int = 0  # measure on so many training examples instead of on the test set
    folder: Path | None = None  # by default runs/translate, or runs/translate-check
    check: bool = False  # train on one format for seconds, and verify what comes of it
    cache: Path | None = None  # keep compilations in this folder, for the next time


def written(date: Any, form: str) -> str:
    """A date in one of the formats."""
    last = 0 if date.day in (11, 12, 13) else date.day % 10
    th = {1: "st", 2: "nd", 3: "rd"}.get(last, "th")
    return date.strftime(form).format(day=date.day, month=date.month, th=th)


def data(forms: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Examples to train and to test on; all months of a year and day are in one of the two."""
    rng = np.random.default_rng(0)
    dates = np.arange("1950", "2050", dtype="datetime64[D]")  # so that two digits tell the year
    year, day = dates.astype("M8[Y]"), dates - dates.astype("M8[M]")
    rank = rng.permutation(100 * 31)[(year - year[0]).astype(int) * 31 + day.astype(int)]
    train = dates[np.argsort(rank, kind="stable")][: (rank < 2800).sum()]
    test = rng.permutation(dates[rank >= 2800])[:2000]
    return examples(np.repeat(train, min(len(forms), 3)), forms, rng), examples(test, forms, rng)


def examples(dates: Any, forms: Sequence[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each date in a format that is drawn, and in ISO's, as ASCII's numbers of the letters."""
    texts = [written(date, forms[int(rng.integers(len(forms)))]) for date in dates.tolist()]
    source, lengths = fn.data.padded([text.encode("ascii") for text in texts], LONGEST)
    target, _ = fn.data.padded([[START, *str(date).encode("ascii"), END] for date in dates])
    return {"source": source, "lengths": lengths, "before": target[:, :-1], "label": target[:, 1:]}


def text(ids: np.ndarray) -> str:
    """What letters say, without start, end and padding."""
    return bytes(ids[ids > END].tolist()).decode("ascii")


def translated(shape: dict[str, int], params: Any, test: dict, beams: int) -> fn.models.Beams:
    """The likeliest translations: each source is encoded once, then decoded letter by letter."""
    encoder = fn.Model(fn.models.encode, **shape)
    decoder = fn.Model(fn.models.decode, **shape, cache=ISO + 1)
    lengths, start = test["lengths"], jnp.full((len(test["lengths"]), 1), START)
    memory = jax.jit(encoder)(params, test["source"], lengths=lengths)
    how = {"end": END, "beams": beams, "memory": memory, "memory_lengths": lengths}
    return jax.device_get(fn.models.beam_search(decoder, params, start, ISO + 1, **how))


def show(folder: Path, model: fn.Model, params: Any, test: dict, found: fn.models.Beams) -> Any:
    """Writes a table of the best two translations, and a picture; gives which ones are right."""
    right, lines = (found.tokens[:, 0] == test["label"]).all(-1), []
    for i in np.argsort(right, kind="stable")[:40]:
        best = zip(found.tokens[i, :2], found.scores[i, :2], strict=True)
        told = "".join(f"  {text(ids):{ISO}} {score:8.4f}" for ids, score in best)
        lines.append(f"{'' if right[i] else 'wrong':6}{text(test['source'][i]):{LONGEST}}{told}\n")
    (folder / "examples.txt").write_text("".join(lines), encoding="utf8")

    four = [test[name][:4] for name in ("source", "before", "lengths", "label")]
    tap = "decoder.blocks.cross.weights"  # (blocks, N, heads, letters to write, letters to read)
    look = jax.jit(lambda x, y, n: model.capture(params, None, x, y, source_lengths=n, taps=tap)[1])
    weights = look(*four[:3])[tap].mean((0, 2))[:, :ISO]
    panels = [(w[:, :n], text(y), text(x)) for w, x, _, n, y in zip(weights, *four, strict=True)]
    title = "Where the decoder looks as it writes, letter by letter: the mean of all its heads"
    picture.heatmaps(folder / "attention.png", panels, title=title)
    return right


def main(settings: Settings) -> float:
    """Trains, translates the test set, writes and draws; returns the share that is exact."""
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    folder = settings.folder or Path("runs/translate" + "-check" * settings.check)
    if settings.check:
        settings = dataclasses.replace(settings, **CHECK)
    train, test = data(FORMATS.split(" | ")[: settings.formats])
    if settings.holdout:
        train, test = fn.data.hold_out(train, settings.holdout)
    how = {"boundaries": (16, LONGEST), "sequences": "source", "seed": settings.seed}
    batches = fn.data.bucketed(train, settings.batch, **how)

    shape, steps = SHAPE | {"depth": settings.depth}, settings.steps
    model = fn.Model(fn.models.transformer, **shape)
    objective = fn.classification(model, input="source", target="before", source_lengths="lengths")
    rate = optax.warmup_cosine_decay_schedule(0, settings.learning_rate, steps // 20, steps)
    optimizer = optax.adam(rate, b2=0.98)
    run = fn.Run.start(model, optimizer, train["source"], train["before"], seed=settings.seed)
    step = fn.train_step(objective, optimizer)
    run = fn.fit(step, run, batches, steps=steps, folder=folder, settings=settings)

    found = translated(shape, run.params, test, settings.beams)
    right = show(folder, model, run.params, test, found)
    print(f"exactly translated: {right.mean():.2%} ({(~right).sum()} of {len(right):,} wrong)")
    if settings.check:
        fn.claim("share of dates translated exactly", right.mean(), at_least=0.9)
    return float(right.mean())


if __name__ == "__main__":
    main(tyro.cli(Settings))
