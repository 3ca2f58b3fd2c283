"""Optimization over optax: what optax has is used as it is, this adds paths and what a run needs.

Parameters are addressed by the patterns of `funnet.select`. Any optax optimizer will do wherever
one is asked for; `freeze`, `average` and `scale_loss` give optimizers that `fn.train_step` knows
more of, and go outermost: `fn.optim.freeze(optax.chain(...), "trunk.*")`.
"""

from funnet.optim.average import average as average
from funnet.optim.average import averaged as averaged
from funnet.optim.freeze import freeze as freeze
from funnet.optim.freeze import merged as merged
from funnet.optim.groups import decayed as decayed
from funnet.optim.groups import groups as groups
from funnet.optim.groups import multiply as multiply
from funnet.optim.loss_scale import scale_loss as scale_loss
from funnet.optim.muon import muon as muon
from funnet.optim.optimizer import Optimizer as Optimizer
from funnet.optim.rates import adamw as adamw
from funnet.optim.rates import learning_rates as learning_rates
from funnet.optim.rates import sgd as sgd
