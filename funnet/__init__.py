"""Neural networks as pure functions."""

from jax.nn import elu as elu
from jax.nn import gelu as gelu
from jax.nn import leaky_relu as leaky_relu
from jax.nn import log_softmax as log_softmax
from jax.nn import relu as relu
from jax.nn import selu as selu
from jax.nn import sigmoid as sigmoid
from jax.nn import silu as silu
from jax.nn import softmax as softmax
from jax.nn import softplus as softplus
from jax.numpy import tanh as tanh

from funnet.layers.conv import conv as conv
from funnet.layers.dropout import dropout as dropout
from funnet.layers.embed import embed as embed
from funnet.layers.embed import unembed as unembed
from funnet.layers.image import normalise as normalise
from funnet.layers.image import space_to_depth as space_to_depth
from funnet.layers.linear import dense as dense
from funnet.layers.norm import batch_norm as batch_norm
from funnet.layers.norm import layer_norm as layer_norm
from funnet.layers.pool import avg_pool as avg_pool
from funnet.layers.pool import flatten as flatten
from funnet.layers.pool import global_avg_pool as global_avg_pool
from funnet.layers.pool import max_pool as max_pool
from funnet.lift import remat as remat
from funnet.lift import repeat as repeat
from funnet.model import Model as Model
from funnet.scope import Scope as Scope
from funnet.scope import layer as layer
