"""Per-example gradients, layer by layer, from one forward and one backward pass.

A record's gradient in a layer is a function of the layer's input and of the gradient of the
summed loss in the layer's output; `layer_calls` keeps the first, one backward pass gives the
second, and a `rules` entry for each layer type turns the two into norms and weighted sums.
"""

from keras_dpvit.gradients.clipped_sum import ClippedSum, clipped_sum
from keras_dpvit.gradients.rules import InstantiatedRule, register_rule

__all__ = ["ClippedSum", "InstantiatedRule", "clipped_sum", "register_rule"]
