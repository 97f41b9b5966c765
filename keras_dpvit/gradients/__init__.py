"""Per-example gradients, layer by layer, from one forward and one backward pass.

A record's gradient in a layer is a function of the layer's input and of the gradient of the
summed loss in the layer's output; `recording` keeps the first, one backward pass gives the
second, and a `rules` entry for each layer type turns the two into norms and weighted sums.
"""
