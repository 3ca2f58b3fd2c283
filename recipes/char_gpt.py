"""Shakespeare, letter by letter: train a decoder transformer on his plays, and let it write.

    python -m recipes.char_gpt               # tables of n-grams and Muon: two minutes of one core
    python -m recipes.char_gpt --nano        # GPT-2's architecture in nanoGPT's setting for CPUs
    python -m recipes.char_gpt --check       # a few seconds: does it learn?

The same command again goes on where it was stopped, or says that it is finished. Without Tiny
Shakespeare (a message says where it is looked for) it reads Python's manual.

Claims on the last tenth of Tiny Shakespeare, in windows that do not overlap, in nats a character;
means of seeds 0, 1 and 2, and CPU seconds of one x86 server core, all included: the decoder 1.517
(worst 1.521) in 121 s, settings chosen on held-out training text; `--nano` 1.825 (worst 1.837) in
126 to 132 s, and with `--steps 1700` 1.888 (seed 0) in 106 s, where nanoGPT's page has 1.88.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import funnet as fn

BACK, ROWS = 4, 16_381  # characters that tables look back; rows of the hashed ones, a prime


@dataclasses.dataclass
class Settings:
    """What to train, for how long, and how to write."""

    nano: bool = False  # nanoGPT's model and optimizer, 12 windows of 64 characters a step
    steps: int | None = None  # by default 850, or 2,000 with nano
    seed: int = 0
    holdout: int = 0  # measure on so many last characters of the training text instead
    temperature: float = 0.8  # of what is written: the lower, the surer
    folder: Path | None = None  # by default runs/char_gpt, with -nano or -check after it
    check: bool = False  # a short training of a small one, which fails unless it learns
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def decoder(
    p: fn.Scope, ids: jax.Array, vocab: int, *, width: int, depth: int, cache: int | None = None
) -> jax.Array:
    """Logits (N, T, vocab) of what comes next, by attention to all and tables of the last few."""
    before = jnp.zeros((len(ids), BACK), jnp.int32)
    if cache is not None:
        before = p.variable("before", before.shape, fn.initializers.zeros, jnp.int32)
    seen = jnp.concatenate([before, ids.astype(jnp.int32)], 1)
    if cache is not None:
        p.update("before", seen[:, -BACK:])
    grams = {n: gram(seen, vocab, n) for n in range(1, BACK + 2)}
    tables = [fn.embed(p[f"gram{n}"], *gram, width) for n, gram in grams.items()]
    x = fn.rms_norm(p["norm1"], sum(tables[1:], tables[0]))
    x = fn.repeat(block, depth)(p["blocks"], x, cache)
    logits = fn.dense(p["head"], fn.rms_norm(p["norm2"], x), vocab)
    return logits + fn.embed(p["bigrams"], *grams[2], vocab)


def gram(seen: jax.Array, vocab: int, n: int) -> tuple[jax.Array, int]:
    """The row in a table for each character with the n - 1 before it, and how many rows it has."""
    steps, code = seen.shape[1] - BACK, jnp.zeros((), jnp.uint32)
    for start in range(BACK + 1 - n, BACK + 1):
        code = code * jnp.uint32(vocab) + seen[:, start : start + steps].astype(jnp.uint32)
    rows = vocab**n if n < 3 else ROWS
    return (code % jnp.uint32(rows)).astype(jnp.int32), rows


@fn.layer
def block(p: fn.Scope, x: jax.Array, cache: int | None) -> jax.Array:
    """Attention that knows distances, and two dense layers about a squared ReLU."""
    own = {"causal": True, "rotary": 10_000.0, "bias": False, "cache": cache}
    window = None if cache is None else 128  # no further back than in training
    y = fn.rms_norm(p["norm1"], x)
    x = x + fn.attention(p["attention"], y, heads=4, window=window, **own)
    y = fn.dense(p["up"], fn.rms_norm(p["norm2"], x), 4 * x.shape[-1], bias=False)
    return x + fn.dense(p["down"], jnp.square(fn.relu(y)), x.shape[-1], bias=False)


def muon(steps: int) -> optax.GradientTransformation:
    """Muon for the blocks' kernels, AdamW for the rest; the rates climb, stay, and fall to zero."""

    def slope(peak: float) -> optax.Schedule:
        times, rates = [0, 0.05 * steps, 0.4 * steps, steps], [0.0, peak, peak, 0.0]
        return lambda step: jnp.interp(step + 1.0, jnp.array(times), jnp.array(rates))

    rest = fn.optim.adamw(slope(0.01), b2=0.99, weight_decay=0.8)
    kernels = fn.optim.muon(slope(0.02), iterations=3, stacked="blocks.*")
    return fn.optim.groups({"blocks.*.kernel": kernels, "*": rest})


def adam(steps: int) -> optax.GradientTransformation:
    """nanoGPT's: a rate that climbs for 100 steps and falls to a tenth, and clipped gradients."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, min(100, steps // 2), steps, 1e-4)
    chosen = fn.optim.adamw(rate, b2=0.99, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), chosen)


def by_pairs(train: np.ndarray, test: np.ndarray, vocab: int) -> float:
    """The loss of telling each character by the one before it alone, by counts in training."""
    counts = np.ones((vocab, vocab))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    return -np.log(counts / counts.sum(1, keepdims=True))[test[:-1], test[1:]].mean()


def main(settings: Settings) -> float:
    """Trains, measures and writes; returns the loss on text that was not trained on."""
    fn.tune_host()  # a step's memory is kept for the next: a tenth of the time
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    nano, check = settings.nano, settings.check
    folder = settings.folder or Path("runs/char_gpt" + "-nano" * nano + "-check" * check)
    name, text = fn.data.first_of(*["tiny_shakespeare"] * (not check), "python_docs")
    ids, alphabet = fn.data.characters(text[: 60_000 if check else None])
    train, test = np.split(ids, [9 * len(ids) // 10])  # as nanoGPT does
    if settings.holdout:
        train, test = train[: -settings.holdout], train[-settings.holdout :]
    length, size, steps = (64, 12, 2000) if nano else (128, 16, 850)
    steps = settings.steps or (60 if check else steps)
    width, depth = (32, 1) if check else (128 if nano else 96, 4)
    more: Any = {"heads": 4, "context": length} if nano else {}
    shape = {"vocab": len(alphabet), "width": width, "depth": depth, **more}
    layer, optimizer = (fn.models.gpt, adam(steps)) if nano else (decoder, muon(steps))
    model = fn.Model(layer, **shape)
    batches = fn.data.batches(fn.data.windows(train, length), size, seed=settings.seed)
    run = fn.Run.start(model, optimizer, batches[0]["text"], seed=settings.seed)
    objective = fn.classification(model, input="text")
    how: Any = {"folder": folder, "settings": settings, "log_every": 10, "thorough": not check}
    run = fn.fit(fn.train_step(objective, optimizer), run, batches, steps=steps, **how)
    loss = fn.evaluate(objective, run, fn.data.windows(test, length), batch_size=64)["loss"]
    print(f"{name}: {loss:.4f} nats a character of text that it did not train on")
    room, start = length if nano or check else 512, jnp.zeros((4, 1), jnp.int32)
    writer, key = fn.Model(layer, **shape, cache=room), jax.random.key(settings.seed)
    how = {"key": key, "temperature": settings.temperature}
    rows = fn.models.generate(writer, run.params, start, room - 1, **how)
    passages = ["".join(alphabet[i] for i in row) for row in np.asarray(rows)]
    (folder / "written.txt").write_text("\n\n---\n\n".join(passages), encoding="utf8")
    print(f"{passages[0]}\n\nMore of it is in {folder}/, and in its report.html the losses by step")
    if check:
        fn.claim("nats a character", loss, at_most=by_pairs(train, test, len(alphabet)) - 0.5)
    return loss


if __name__ == "__main__":
    main(tyro.cli(Settings))
