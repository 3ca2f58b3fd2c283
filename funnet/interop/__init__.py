"""PyTorch: its weights in and out, and a check, layer by layer, that a model is its twin."""

from funnet.interop.compare import twin as twin
from funnet.interop.published import GPT2 as GPT2
from funnet.interop.published import TORCHVISION_RESNET as TORCHVISION_RESNET
from funnet.interop.tensors import untransposed as untransposed
from funnet.interop.weights import from_torch as from_torch
from funnet.interop.weights import to_torch as to_torch
