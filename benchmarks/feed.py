"""What reading ahead gains: steps of a source that costs the host as much as the device.

The same steps, from the same source, of which the first is read by `fit` as it is, in a thread, and
the second where it is asked for, between the dispatches. The host's cost is a wait, as for a disk
or a network, or is work, which on a CPU takes from the device what it needs itself.

python -m benchmarks.feed
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funnet as fn
from funnet.train.feed import Feed
from funnet.train.loop import advance
from funnet.train.prefetch import batch_of

ROUNDS, STEPS, SIZE, WIDTH = 5, 400, 64, 256
PRODUCTS = {"cpu": 8}.get(jax.default_backend(), 400)  # about a millisecond or two


def step(run: fn.Run, batch: Any) -> tuple[fn.Run, dict[str, Any]]:
    """Some products of matrices, whose cost does not depend on the data."""
    x = jax.lax.fori_loop(0, PRODUCTS, lambda _, x: jnp.tanh(x @ run.params), batch["x"])
    return run.next(), {"mean": x.mean()}


class Source:
    """Batches that cost the host so many seconds each, of waiting or of work."""

    def __init__(self, seconds: float, work: bool):
        self.seconds, self.work = seconds, work
        self.x = np.random.default_rng(0).normal(size=(SIZE, WIDTH)).astype(np.float32)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step."""
        until = time.perf_counter() + self.seconds
        if not self.work:
            time.sleep(self.seconds)
        while time.perf_counter() < until:
            np.sort(self.x, axis=1)
        return {"x": self.x}


class Plain(Feed):
    """Reads what is asked for when it is asked for."""

    def take(self, step: int, steps: int) -> tuple[Any, Any, int]:
        """As `Feed.take`, without a thread."""
        each = [batch_of(self.batches, step + i)["x"] for i in range(min(steps, self.most))]
        room = np.zeros((self.most, *each[0].shape), np.float32)
        room[: len(each)] = each
        return {"x": room}, np.int32(0), len(each)


def seconds(feed: Feed, run: fn.Run) -> float:
    """The time that a step takes."""
    begun = time.perf_counter()
    with feed:
        for _ in advance(step, run, feed, STEPS, None):
            pass
    return (time.perf_counter() - begun) / STEPS


def started() -> fn.Run:
    """A run to take steps from."""
    kernel = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / WIDTH**0.5
    return fn.Run(kernel, {}, (), jnp.int32(0), jnp.uint32(0))


def main() -> None:
    """Prints the ratio of the rates, and how much of the smaller cost is hidden."""
    free = Source(0, work=False)
    seconds(Feed(free, STEPS), started())  # compiles
    device = seconds(Feed(free, STEPS), started())
    print(f"{jax.devices()[0].device_kind}: {1e3 * device:.2f} ms a step")
    for name, work in (("waiting", False), ("work", True)):
        ahead, plain = [], []
        for _ in range(ROUNDS):
            source = Source(device, work)
            ahead.append(seconds(Feed(source, STEPS), started()))
            plain.append(seconds(Plain(source, STEPS), started()))
        ratios = [p / a for p, a in zip(plain, ahead, strict=True)]
        hidden = [(p - a) / device for p, a in zip(plain, ahead, strict=True)]
        print(
            f"{name}, as much as that: {statistics.median(ratios):.2f} times the rate "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {ROUNDS} rounds of {STEPS} steps), "
            f"{statistics.median(hidden):.0%} of the cost is hidden"
        )


if __name__ == "__main__":
    main()
