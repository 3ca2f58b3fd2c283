"""Plain JAX, the limit: one jitted step with donated buffers, or many in one scan.

Parameters are one list of arrays in the order of the layers, kernel before bias, scale before
bias. Batch norm's running means are kept, as all keep them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload

FUSED = 64  # steps in one scan
STAGES = [(64 * 2**stage, 2 if stage and not i else 1) for stage in range(4) for i in range(2)]


def start(workload: Workload, form: str) -> Any:
    """A loop of steps, or of scans."""
    params, state = (jax.tree.map(jnp.asarray, tree) for tree in drawn(workload.model))
    apply = APPLY[workload.model]
    if form == "scan":
        return Scanned(workload, apply, params, state)
    return loops.trained(workload, apply, params, state)


class Scanned(loops.Loop):
    """As `Loop`, with up to `FUSED` steps in each dispatch."""

    def __init__(self, workload: Workload, apply: Any, params: Any, state: Any):
        rule = loops.optimizer(workload)
        one = loops.update(workload, apply, rule)

        def many(params: Any, state: Any, kept: Any, xs: Any, ys: Any) -> Any:
            def body(carry: Any, batch: Any) -> Any:
                *carry, loss = one(*carry, *batch)
                return tuple(carry), loss

            carry, losses = lax.scan(body, (params, state, kept), (xs, ys))
            return *carry, losses[-1]

        carry = (params, state, rule.init(params))
        super().__init__(
            workload, jax.jit(many, donate_argnums=(0, 1, 2)), carry, loops.count(params)
        )

    def run(self, steps: int) -> float:
        """Takes the steps in scans of at most `FUSED`."""
        last: Any = None
        while steps:
            fused = min(steps, FUSED)
            rows = np.stack([next(self.orders) for _ in range(fused)])
            *self.carry, last = self.step(*self.carry, self.x[rows], self.y[rows])
            steps -= fused
        jax.block_until_ready((self.carry, last))
        return float(last)


def drawn(model: str) -> tuple[list, list]:
    """Parameters, and running means and variances, as NumPy arrays."""
    rng = np.random.default_rng(2)
    params, state = [], []
    for shape in shapes(model):
        if isinstance(shape, int):
            params += [np.ones(shape, np.float32), np.zeros(shape, np.float32)]
            if model == "resnet":
                state += [np.zeros(shape, np.float32), np.ones(shape, np.float32)]
            continue
        scale = 0.02 if model == "gpt" else 1 / np.sqrt(np.prod(shape[:-1]))
        params.append(rng.normal(0, scale, shape).astype(np.float32))
        table = model == "gpt" and shape[0] in (VOCABULARY, CONTEXT)
        inputs = model == "lstm" and shape[0] == 32
        if not (table or inputs or (model == "resnet" and len(shape) == 4)):
            params.append(np.zeros(shape[-1], np.float32))
    return params, state


def shapes(model: str) -> list:
    """Kernels by shape, norms by their width."""
    block = [WIDTH, *[(WIDTH, WIDTH)] * 4, WIDTH, (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
    return {
        "mlp": lambda: [(784, 128), (128, 64), (64, 10)],
        "cnn": lambda: [(3, 3, 1, 32), (3, 3, 32, 64), (3136, 128), (128, 10)],
        "lenet": lambda: [(5, 5, 3, 6), (5, 5, 6, 16), (400, 120), (120, 84), (84, 10)],
        "linear": lambda: [(1, 1)],
        "lstm": lambda: [(32, 4 * WIDTH), (WIDTH, 4 * WIDTH), (WIDTH, 10)],
        "gpt": lambda: [(VOCABULARY, WIDTH), (CONTEXT, WIDTH), *block * DEPTH, WIDTH],
        "resnet": resnet_shapes,
    }[model]()


def resnet_shapes() -> list:
    """The stem, eight blocks, and the head."""
    found, before = [(3, 3, 3, 64), 64], 64
    for width, _ in STAGES:
        found += [(3, 3, before, width), width, (3, 3, width, width), width]
        found += [(1, 1, before, width), width] if before != width else []
        before = width
    return [*found, (512, 10)]


def conv(x: Any, kernel: Any, stride: int = 1, padding: Any = "SAME") -> Any:
    """A convolution of images (N, H, W, C)."""
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=names)


def pool(x: Any) -> Any:
    """A max pool of 2."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mlp(params: Any, state: Any, x: Any) -> Any:
    """Dense layers."""
    for i in range(0, len(params), 2):
        x = x @ params[i] + params[i + 1]
        x = jax.nn.relu(x) if i < len(params) - 2 else x
    return x, state


def convolutional(padding: str) -> Any:
    """Two convolutions with pools, and dense layers."""

    def apply(params: Any, state: Any, x: Any) -> Any:
        for i in (0, 2):
            x = pool(jax.nn.relu(conv(x, params[i], padding=padding) + params[i + 1]))
        return mlp(params[4:], state, x.reshape(len(x), -1))

    return apply


def lstm(params: Any, state: Any, x: Any) -> Any:
    """The inputs are projected in one product; the head is on the last state."""
    inputs, hidden, bias, *out = params

    def step(carry: Any, projected: Any) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(projected + h @ hidden, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((len(x), WIDTH))
    (h, _), _ = lax.scan(step, (zeros, zeros), jnp.swapaxes(x @ inputs + bias, 0, 1))
    return mlp(out, state, h)


def norm(x: Any, scale: Any, bias: Any) -> Any:
    """Layer norm."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def gpt(params: Any, state: Any, ids: Any) -> Any:
    """Blocks one after another, and the table once more at the end."""
    table, positions, *rest = params
    x = table[ids] + positions
    for i in range(DEPTH):
        x = block(rest[16 * i : 16 * (i + 1)], x)
    return norm(x, *rest[-2:]) @ table.T, state


def block(p: Any, x: Any) -> Any:
    """Attention and two dense layers, each with its norm before."""
    y = norm(x, p[0], p[1])
    q, k, v = ((y @ p[i] + p[i + 1]).reshape(*x.shape[:2], HEADS, -1) for i in (2, 4, 6))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    x = x + y @ p[8] + p[9]
    y = jax.nn.gelu(norm(x, p[10], p[11]) @ p[12] + p[13])
    return x + y @ p[14] + p[15]


def resnet(params: Any, state: Any, x: Any) -> Any:
    """Each convolution takes the next parameters, and the next running means."""
    p, s, kept = iter(params), iter(state), []

    def normed(x: Any, stride: int = 1, size: int = 3) -> Any:
        x = conv(x, next(p), stride, [(size // 2, size // 2)] * 2)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        kept.extend([0.9 * next(s) + 0.1 * mean, 0.9 * next(s) + 0.1 * var])
        return (x - mean) * lax.rsqrt(var + 1e-5) * next(p) + next(p)

    x = jax.nn.relu(normed(x))
    for width, stride in STAGES:
        y = normed(jax.nn.relu(normed(x, stride)))
        x = jax.nn.relu(y + (x if x.shape[-1] == width else normed(x, stride, 1)))
    return x.mean((1, 2)) @ next(p) + next(p), kept


APPLY = {
    "mlp": mlp,
    "cnn": convolutional("SAME"),
    "lenet": convolutional("VALID"),
    "linear": mlp,
    "lstm": lstm,
    "gpt": gpt,
    "resnet": resnet,
}
