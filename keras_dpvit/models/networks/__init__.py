"""Networks that the encryption papers compare with, as Keras models.

They have batch normalisation, which mixes examples: private training refuses them.
"""

from keras_dpvit.models.networks.adaptation import ADAPTATIONS
from keras_dpvit.models.networks.blockwise import BlockMixing, BlockwiseConv
from keras_dpvit.models.networks.pixel_shuffle import PixelShuffle
from keras_dpvit.models.networks.resnet import resnet18
from keras_dpvit.models.networks.shake_drop import ShakeDrop
from keras_dpvit.models.networks.shake_pyramid import ZeroChannels, shake_pyramid_net
from keras_dpvit.models.networks.vit import vit_b16

__all__ = [
    "ADAPTATIONS",
    "BlockMixing",
    "BlockwiseConv",
    "PixelShuffle",
    "ShakeDrop",
    "ZeroChannels",
    "resnet18",
    "shake_pyramid_net",
    "vit_b16",
]
