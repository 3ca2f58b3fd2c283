"""Contrastive learning (SimCLR): features of MNIST's digits, learnt without a single label.

Two views of each image, turned, moved and partly covered, should find each other among all views of
the batch. The features that come of it are then frozen, and a linear classifier tells what is in
them, as it does of raw pixels and of the same network untrained.

    python -m recipes.contrastive
    python -m recipes.contrastive --check    # a short training on scikit-learn's digits

Claim:
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro

import funnet as fn
from funnet.picture import grid


@dataclasses.dataclass
class Settings:
    """What to learn features of, and for how long."""

    epochs: float = 5.0
    batch: int = 256
    temperature: float = 0.2
    learning_rate: float = 3e-3
    degrees: float = 20.0  # views are turned by at most so much,
    shift: int = 3  # moved by at most so many pixels,
    cutout: int = 10  # and covered by a square of this side
    seed: int = 0
    folder: Path | None = None  # by default runs/contrastive
    holdout: int = 0  # measure on so many training images instead of on the test set
    check: bool = False  # train for seconds on digits, and fail unless that beats no training
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def encoder(p: fn.Scope, images: jax.Array) -> jax.Array:
    """Features (N, 128) of images: three convolutions, each of half the size."""
    x = fn.space_to_depth(fn.normalise(images, mean=0.13, std=0.31), 2)
    for name, width, stride in (("conv1", 32, 1), ("conv2", 64, 2), ("conv3", 128, 2)):
        x = fn.conv(p[name], x, width, 3, stride=stride, bias=False)
        x = fn.relu(fn.batch_norm(p[f"{name}_norm"], x))
    return fn.relu(fn.batch_norm(p["norm"], fn.dense(p["features"], fn.flatten(x), 128)))


@fn.layer
def projected(p: fn.Scope, images: jax.Array) -> jax.Array:
    """What the loss compares: features through a head that is thrown away after the training."""
    x = encoder(p["encoder"], images)
    return fn.dense(p["out"], fn.relu(fn.dense(p["hidden"], x, 128)), 64)
