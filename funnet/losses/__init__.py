"""Losses: one number per example, computed in float32 or wider; the caller reduces.

A loss that has classes takes them along the last axis and gives one number per label; an
elementwise loss, of `(N, ...)`, gives the mean over every axis but the first. So `loss.mean()`
is the usual objective, and `(mask * loss).sum() / mask.sum()` that of a padded batch. Shapes are
never broadcast: see `funnet.checks`.

The argument `weights` weighs what a loss sums *within* an example. Where there are classes it is
`(C,)`, one number a class. Where there are elements it has the predictions' shape, or that of
their leading axes, such as `(N, T)`, and the mean becomes `sum(w l) / sum(w)`: an element of
weight 0 counts nothing even if it holds NaN, so a padded sequence is weighted out, and an example
that has no other elements gives 0.
"""

from funnet.losses.classes import cross_entropy as cross_entropy
from funnet.losses.classes import focal as focal
from funnet.losses.classes import kl_divergence as kl_divergence
from funnet.losses.classes import multi_margin as multi_margin
from funnet.losses.classes import nll as nll
from funnet.losses.classes import soft_cross_entropy as soft_cross_entropy
from funnet.losses.densities import gaussian_kl as gaussian_kl
from funnet.losses.densities import gaussian_nll as gaussian_nll
from funnet.losses.densities import poisson_nll as poisson_nll
from funnet.losses.elements import binary_cross_entropy as binary_cross_entropy
from funnet.losses.elements import binary_focal as binary_focal
from funnet.losses.elements import hinge as hinge
from funnet.losses.elements import huber as huber
from funnet.losses.elements import l1 as l1
from funnet.losses.elements import margin_ranking as margin_ranking
from funnet.losses.elements import mse as mse
from funnet.losses.embeddings import contrastive as contrastive
from funnet.losses.embeddings import cosine as cosine
from funnet.losses.embeddings import nt_xent as nt_xent
from funnet.losses.embeddings import triplet as triplet
from funnet.losses.policies import clipped_policy as clipped_policy
from funnet.losses.segments import dice as dice
from funnet.losses.sequences import ctc as ctc
