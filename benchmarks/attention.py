"""What attention takes: memory by XLA's account, and CPU time, whole against in blocks.

python -m benchmarks.attention                     # 8 sequences of 2,048 with 8 heads of 64
python -m benchmarks.attention --steps 512 --rounds 5
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from funnet.ops import attention


def programs(steps: int, blocks: bool) -> dict:
    """The compiled forward pass and gradient."""
    attention.LARGE = 0 if blocks else 1 << 62
    view = attention.View(causal=True)
    x = [jax.ShapeDtypeStruct((8, steps, 8, 64), jnp.float32)] * 3

    def loss(q, k, v):
        return jnp.square(attention.attention(q, k, v, view)).sum()

    forward = jax.jit(lambda q, k, v: attention.attention(q, k, v, view))
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    return {"forward": forward.lower(*x).compile(), "gradient": gradient.lower(*x).compile()}


def main() -> None:
    """Prints a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    compiled = {
        (form, name): program
        for form, blocks in (("whole", False), ("blocks", True))
        for name, program in programs(flags.steps, blocks).items()
    }
    x = np.random.default_rng(0).normal(size=(3, 8, flags.steps, 8, 64)).astype(np.float32)
    seconds = {key: [] for key in compiled}
    for _ in range(flags.rounds):
        for key, program in compiled.items():
            start = time.process_time()
            jax.block_until_ready(program(*map(jnp.asarray, x)))
            seconds[key].append(time.process_time() - start)
    print(f"one matrix of scores: {8 * 8 * flags.steps**2 * 4 / 2**20:.0f} MiB")
    for key, program in compiled.items():
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        median = statistics.median(seconds[key])
        print(f"{key[0]:>7} {key[1]:<9} {memory:7.0f} MiB beside operands, {median:6.2f} CPU s")


if __name__ == "__main__":
    main()
