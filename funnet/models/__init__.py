"""Models, each a layer built of the library's own: read them, copy them, change them."""

from funnet.models.autoencoder import autoencoder as autoencoder
from funnet.models.autoencoder import image_decoder as image_decoder
from funnet.models.autoencoder import image_encoder as image_encoder
from funnet.models.autoencoder import vae as vae
from funnet.models.beam import Beams as Beams
from funnet.models.beam import beam_search as beam_search
from funnet.models.convnet import conv_features as conv_features
from funnet.models.convnet import convnet as convnet
from funnet.models.convnet import lenet as lenet
from funnet.models.convnet import mlp as mlp
from funnet.models.gan import discriminator as discriminator
from funnet.models.gan import generator as generator
from funnet.models.generate import generate as generate
from funnet.models.multitask import multitask as multitask
from funnet.models.recurrent import lstm_classifier as lstm_classifier
from funnet.models.recurrent import lstm_tagger as lstm_tagger
from funnet.models.resnet import resnet as resnet
from funnet.models.transformer import decode as decode
from funnet.models.transformer import encode as encode
from funnet.models.transformer import gpt as gpt
from funnet.models.transformer import transformer as transformer
from funnet.models.transformer import vit as vit
