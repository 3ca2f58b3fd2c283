"""All losses: what draws their arguments, and PyTorch's loss or the formula, on tensors.

Weights are drawn as integers, zeros among them: fixed, as PyTorch has no gradient for its own.
There are two classes or more, and vectors of two numbers or more: with one, gradients are sums
that cancel to 0, and what is compared would be roundings.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from funnet import losses


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one number an example, its arguments by name, and its like in PyTorch.

    `draw` gives the arrays and the settings; `theirs` takes the module `torch`, tensors and
    settings. `alone` says whether an example's loss depends on it alone.
    """

    ours: Callable[..., Any]
    draw: Callable[[np.random.Generator], tuple[dict, dict]]
    theirs: Callable[..., Any]
    alone: bool = True

    def drawn(self, seed, dtype=np.float32):
        """Arrays, the floating ones in the given dtype, and settings."""
        arrays, settings = self.draw(np.random.default_rng(seed))
        return {name: cast(x, dtype) for name, x in arrays.items()}, settings


def cast(x, dtype):
    return x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x


def some(rng, choices):
    return choices[rng.integers(len(choices))]


def shape_of(rng, least=1, most=4):
    return tuple(int(n) for n in rng.integers(1, 6, rng.integers(least, most)))


def normal(rng, shape, scale=2.0):
    return scale * rng.normal(size=shape)


def simplex(rng, shape):
    return scipy.special.softmax(normal(rng, shape), axis=-1)


# Elements.


def element_weights(rng, shape):
    """Weights for the shape or its leading axes in half the cases, where it has two axes."""
    if len(shape) < 2 or rng.random() < 0.5:
        return {}
    return {"weights": rng.integers(0, 4, shape[: rng.integers(2, len(shape) + 1)])}


def pair(predictions, targets):
    """Draws predictions and targets of one shape, with weights or without."""

    def draw(rng):
        shape = shape_of(rng)
        arrays = {"predictions": predictions(rng, shape), "targets": targets(rng, shape)}
        return arrays | element_weights(rng, shape), {}

    return draw


def yes(rng, shape):
    return rng.random(shape) < 0.5


def signs(rng, shape):
    return rng.choice([-1, 1], shape)


def renamed(draw, first, **settings):
    """The draw with the predictions under another name, and settings from the choices given."""

    def redrawn(rng):
        arrays, _ = draw(rng)
        arrays = {first if name == "predictions" else name: x for name, x in arrays.items()}
        return arrays, {name: some(rng, choices) for name, choices in settings.items()}

    return redrawn


def averaged(loss, weights=None):
    """The mean over every axis but the first, as PyTorch would be told to take it."""
    loss = loss.reshape(len(loss), -1)
    if weights is None:
        return loss.mean(1)
    weights = weights.reshape(len(loss), -1).repeat_interleave(
        loss.shape[1] // weights[0].numel(), dim=1
    )
    total = weights.sum(1)
    return (weights * loss).sum(1) / total.where(total > 0, total + 1)


def elementwise(function, first="predictions"):
    """A loss of `torch.nn.functional` with weights."""

    def theirs(torch, weights=None, **given):
        function_ = getattr(torch.nn.functional, function)
        arguments = [given.pop(name) for name in [first, "targets", "var"] if name in given]
        return averaged(function_(*arguments, reduction="none", **given), weights)

    return theirs


def binary(torch, logits, targets, weights=None):
    targets = targets.to(logits.dtype)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return averaged(loss(logits, targets, reduction="none"), weights)


def binary_focal(torch, logits, targets, gamma, weights=None):
    p = logits.double().sigmoid()
    p = torch.where(targets, p, 1 - p)
    return averaged(-((1 - p) ** gamma) * p.log(), weights).to(logits.dtype)


def hinge(torch, predictions, targets, weights=None):
    return averaged((1 - targets * predictions).clamp(min=0), weights)


def scores(rng):
    shape = shape_of(rng)
    arrays = {"a": normal(rng, shape), "b": normal(rng, shape), "order": signs(rng, shape)}
    return arrays | element_weights(rng, shape), {"margin": some(rng, [0.0, 0.7])}


def margin_ranking(torch, a, b, order, margin, weights=None):
    loss = torch.nn.functional.margin_ranking_loss(a, b, order, margin=margin, reduction="none")
    return averaged(loss, weights)


# Densities.


def gaussian(rng):
    shape = shape_of(rng)
    arrays = {"mean": normal(rng, shape), "targets": normal(rng, shape)}
    arrays["var"] = rng.uniform(0.1, 3, shape)
    return arrays | element_weights(rng, shape), {"eps": some(rng, [1e-6, 0.5])}


def counts(rng, shape):
    drawn = rng.poisson(2.0, shape)
    return drawn if rng.random() < 0.5 else drawn.astype(float)


def gaussian_kl(torch, mean, log_var):
    normal = torch.distributions.Normal
    unit = normal(torch.zeros_like(mean), torch.ones_like(mean))
    parts = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), unit)
    return parts.reshape(len(mean), -1).sum(1)


def normals(rng):
    shape = shape_of(rng)
    return {"mean": normal(rng, shape), "log_var": normal(rng, shape, 1.0)}, {}


# Policies.


def choices(rng):
    """Ratios on all sides of what the clip allows, but not at its corners, nor near zero."""
    shape, clip = shape_of(rng), some(rng, [0.1, 0.2, 0.4])
    away = clip * (1 + rng.choice([-1, 1], shape) * rng.uniform(0.1, 0.9, shape))
    ratio = 1 + rng.choice([-1, 1], shape) * away
    before = -rng.uniform(0.5, 3, shape)
    arrays = {"log_probabilities": before + np.log(ratio), "before": before}
    return arrays | {"advantages": normal(rng, shape)}, {"clip": clip}


def clipped_policy(torch, log_probabilities, before, advantages, clip):
    """As Schulman et al. describe it: no gain beyond the clip, though any loss."""
    ratio = log_probabilities.exp() / before.exp()
    edge = 1 + clip * advantages.sign()
    held = torch.where(advantages > 0, ratio > edge, ratio < edge)
    return -averaged(torch.where(held, edge, ratio) * advantages)


# Classes.


def class_weights(rng, classes):
    return {"weights": rng.integers(0, 4, classes)} if rng.random() < 0.5 else {}


def labelled(first="logits", weights=True, predict=normal, least=2, **settings):
    def draw(rng):
        shape = (*shape_of(rng, least - 1, 3), int(rng.integers(2, 6)))
        arrays = {first: predict(rng, shape), "labels": rng.integers(0, shape[-1], shape[:-1])}
        more = class_weights(rng, shape[-1]) if weights else {}
        return arrays | more, {name: some(rng, choices) for name, choices in settings.items()}

    return draw


def log_simplex(rng, shape):
    return np.log(simplex(rng, shape))


def of_labels(function):
    """A loss of `torch.nn.functional` with integer labels, over rows."""

    def theirs(torch, *, labels, weights=None, **given):
        x = given.pop(next(iter(given)))
        if weights is not None:
            given["weight"] = weights.to(x.dtype)
        rows, flat = x.reshape(-1, x.shape[-1]), labels.reshape(-1)
        loss = getattr(torch.nn.functional, function)
        return loss(rows, flat, reduction="none", **given).reshape(labels.shape)

    return theirs


def distributions(rng):
    shape = shape_of(rng, 2)
    arrays = {"logits": normal(rng, shape), "targets": simplex(rng, shape)}
    return arrays | class_weights(rng, shape[-1]), {}


def soft_cross_entropy(torch, logits, targets, weights=None):
    weight = None if weights is None else weights.to(logits.dtype)
    rows, flat = (x.reshape(-1, x.shape[-1]) for x in (logits, targets))
    loss = torch.nn.functional.cross_entropy(rows, flat, weight, reduction="none")
    return loss.reshape(logits.shape[:-1])


def kl_divergence(torch, log_predictions, targets):
    return torch.nn.functional.kl_div(log_predictions, targets, reduction="none").sum(-1)


def focal(torch, logits, labels, gamma, weights=None):
    log_p = logits.double().log_softmax(-1)
    own = torch.nn.functional.one_hot(labels, logits.shape[-1]).bool()
    rest = log_p.exp().masked_fill(own, 0).sum(-1)
    loss = -(rest**gamma) * log_p[own].reshape(labels.shape)
    return (loss if weights is None else weights[labels] * loss).to(logits.dtype)


def dice(torch, logits, labels, smoothing):
    p = logits.softmax(-1).reshape(len(logits), -1, logits.shape[-1])
    g = torch.nn.functional.one_hot(labels, logits.shape[-1]).reshape(p.shape)
    overlap = (2 * (p * g).sum(1) + smoothing) / ((p**2).sum(1) + (g**2).sum(1) + smoothing)
    return 1 - overlap.mean(-1)


# Embeddings.


def vectors(*names, least=1, most=4, **settings):
    def draw(rng):
        shape = (*shape_of(rng, least, most), int(rng.integers(2, 7)))
        chosen = {name: some(rng, choices) for name, choices in settings.items()}
        return {name: normal(rng, shape) for name in names}, chosen

    return draw


def triplet(torch, anchor, positive, negative, margin):
    loss = torch.nn.functional.triplet_margin_loss
    return loss(anchor, positive, negative, margin=margin, reduction="none")


def pairs(rng):
    arrays, settings = vectors("a", "b", margin=[1.0, 4.0])(rng)
    return arrays | {"same": yes(rng, arrays["a"].shape[:-1])}, settings


def contrastive(torch, a, b, same, margin):
    distance = (a - b).norm(dim=-1)
    return torch.where(same, distance**2, (margin - distance).clamp(min=0) ** 2) / 2


def views(rng):
    shape = (int(rng.integers(2, 6)), int(rng.integers(2, 7)))
    arrays = {"a": normal(rng, shape), "b": normal(rng, shape)}
    return arrays, {"temperature": some(rng, [0.1, 0.5, 2.0])}


def nt_xent(torch, a, b, temperature):
    n = len(a)
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=-1)
    found = [
        -torch.log_softmax(torch.cat([z[i] @ z[:i].T, z[i] @ z[i + 1 :].T]) / temperature, 0)
        for i in range(2 * n)
    ]
    # Without itself, view i + n is entry i + n - 1 for view i, and view i is entry i for i + n.
    return torch.stack([(found[i][i + n - 1] + found[i + n][i]) / 2 for i in range(n)])


# Sequences.


def alignable(rng):
    """Logits long enough for the labels, which repeat often; lengths in most cases."""
    n, size, classes = (int(x) for x in rng.integers(1, 5, 3) + np.array([0, 0, 1]))
    blank = int(rng.integers(classes))
    labels = rng.integers(0, classes - 1, (n, size))
    labels += labels >= blank
    steps = 2 * size + int(rng.integers(3))
    arrays = {"logits": normal(rng, (n, steps, classes)), "labels": labels}
    if rng.random() < 0.7:
        arrays["label_lengths"] = rng.integers(0, size + 1, n)
        arrays["logit_lengths"] = rng.integers(2 * arrays["label_lengths"], steps + 1)
    return arrays, {"blank": blank}


def ctc(torch, logits, labels, blank, logit_lengths=None, label_lengths=None):
    n, steps, _ = logits.shape
    times = torch.full((n,), steps) if logit_lengths is None else logit_lengths
    sizes = torch.full((n,), labels.shape[1]) if label_lengths is None else label_lengths
    log_p = logits.log_softmax(-1).swapaxes(0, 1)
    loss = torch.nn.functional.ctc_loss
    return loss(log_p, labels, times, sizes, blank=blank, reduction="none")


GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.5]
MARGINS = [0.3, 1.0, 3.0]

TABLE = {
    "mse": Loss(losses.mse, pair(normal, normal), elementwise("mse_loss")),
    "l1": Loss(losses.l1, pair(normal, normal), elementwise("l1_loss")),
    "huber": Loss(
        losses.huber,
        renamed(pair(normal, normal), "predictions", delta=[0.5, 1.0, 3.0]),
        elementwise("huber_loss"),
    ),
    "binary_cross_entropy": Loss(
        losses.binary_cross_entropy, renamed(pair(normal, yes), "logits"), binary
    ),
    "binary_cross_entropy, soft": Loss(
        losses.binary_cross_entropy, renamed(pair(normal, simplex), "logits"), binary
    ),
    "binary_focal": Loss(
        losses.binary_focal, renamed(pair(normal, yes), "logits", gamma=GAMMAS), binary_focal
    ),
    "hinge": Loss(losses.hinge, pair(normal, signs), hinge),
    "margin_ranking": Loss(losses.margin_ranking, scores, margin_ranking),
    "gaussian_nll": Loss(losses.gaussian_nll, gaussian, elementwise("gaussian_nll_loss", "mean")),
    "poisson_nll": Loss(
        losses.poisson_nll,
        renamed(pair(normal, counts), "log_rate"),
        elementwise("poisson_nll_loss", "log_rate"),
    ),
    "clipped_policy": Loss(losses.clipped_policy, choices, clipped_policy),
    "gaussian_kl": Loss(losses.gaussian_kl, normals, gaussian_kl),
    "cross_entropy": Loss(
        losses.cross_entropy, labelled(label_smoothing=[0.0, 0.1, 1.0]), of_labels("cross_entropy")
    ),
    "soft_cross_entropy": Loss(losses.soft_cross_entropy, distributions, soft_cross_entropy),
    "nll": Loss(
        losses.nll, labelled("log_probabilities", predict=log_simplex), of_labels("nll_loss")
    ),
    "focal": Loss(losses.focal, labelled(gamma=GAMMAS), focal),
    "multi_margin": Loss(
        losses.multi_margin, labelled(weights=False, margin=MARGINS), of_labels("multi_margin_loss")
    ),
    "kl_divergence": Loss(
        losses.kl_divergence,
        lambda rng: (
            {"log_predictions": log_simplex(rng, (3, 4)), "targets": simplex(rng, (3, 4))},
            {},
        ),
        kl_divergence,
    ),
    "dice": Loss(losses.dice, labelled(weights=False, smoothing=[1e-3, 1.0]), dice),
    "cosine": Loss(
        losses.cosine,
        vectors("predictions", "targets"),
        lambda torch, predictions, targets: (
            1 - torch.nn.functional.cosine_similarity(predictions, targets, dim=-1)
        ),
    ),
    "triplet": Loss(
        losses.triplet, vectors("anchor", "positive", "negative", margin=MARGINS), triplet
    ),
    "contrastive": Loss(losses.contrastive, pairs, contrastive),
    "nt_xent": Loss(losses.nt_xent, views, nt_xent, alone=False),
    "ctc": Loss(losses.ctc, alignable, ctc),
}
