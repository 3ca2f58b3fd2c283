"""Data: where it comes from, in which order it is seen, and how it is varied."""

from funnet.data import augment as augment
from funnet.data.batches import Batches as Batches
from funnet.data.batches import batches as batches
from funnet.data.buckets import Bucketed as Bucketed
from funnet.data.buckets import bucketed as bucketed
from funnet.data.choices import caveat as caveat
from funnet.data.choices import first_of as first_of
from funnet.data.choices import hold_out as hold_out
from funnet.data.from_grain import from_grain as from_grain
from funnet.data.ragged import padded as padded
from funnet.data.sources import cifar10 as cifar10
from funnet.data.sources import digits as digits
from funnet.data.sources import fashion_mnist as fashion_mnist
from funnet.data.sources import mnist as mnist
from funnet.data.sources import tiny_shakespeare as tiny_shakespeare
from funnet.data.texts import characters as characters
from funnet.data.texts import python_docs as python_docs
from funnet.data.texts import windows as windows
from funnet.data.wav import read_wav as read_wav
from funnet.data.wav import write_wav as write_wav
