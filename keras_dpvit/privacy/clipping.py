"""How the layers of one record's gradient are scaled against each other.

A rule here looks at one record alone, so it costs no privacy and bounds nothing: the bound is the
release cap of `sensitivity`, applied afterwards to the whole gradient.
"""

import abc
import dataclasses
from typing import Any

from keras_dpvit.errors import InputError


class LayerClipping(abc.ABC):
    """A rule from a record's layer norms to a factor for each layer."""

    name: str

    @abc.abstractmethod
    def factors(self, layer_norms: Any) -> Any:
        """The factor of each layer's gradient.

        Args:
            layer_norms: float tensor `(records, layers)`, L2 norms.

        Returns:
            float tensor `(records, layers)` in [0, 1]. Where a norm is not finite the factor
            means nothing, and the release cap drops the record.
        """


@dataclasses.dataclass(frozen=True)
class MedianLayerClipping(LayerClipping):
    """Each layer is clipped to the median of the record's own layer norms.

    Equations 9 and 10 of the DP-ViT paper (Yang 2024); groups are the layers that own trainable
    variables. The middle norm for an odd number of layers, the mean of the two middle ones for
    an even number.
    """

    name = "median_layer"

    def factors(self, layer_norms: Any) -> Any:
        import tensorflow as tf

        layers = layer_norms.shape[-1]
        ordered = tf.sort(layer_norms, axis=-1)
        median = 0.5 * (ordered[:, (layers - 1) // 2] + ordered[:, layers // 2])
        return tf.minimum(1.0, tf.math.divide_no_nan(median[:, None], layer_norms)) + tf.cast(
            layer_norms == 0.0, layer_norms.dtype
        )


@dataclasses.dataclass(frozen=True)
class FlatClipping(LayerClipping):
    """Layers keep their proportions; only the release cap scales the gradient (Abadi et al.)."""

    name = "flat"

    def factors(self, layer_norms: Any) -> Any:
        import tensorflow as tf

        return tf.ones_like(layer_norms)


_BY_NAME: dict[str, type[LayerClipping]] = {
    cls.name: cls for cls in (MedianLayerClipping, FlatClipping)
}


def clipping_to_dict(clipping: LayerClipping) -> dict[str, Any]:
    """JSON-able form."""
    return {"name": clipping.name}


def clipping_from_dict(data: dict[str, Any]) -> LayerClipping:
    """The inverse of `clipping_to_dict`.

    Raises:
        InputError: on an unknown name.
    """
    if data.get("name") not in _BY_NAME:
        raise InputError(
            f"clipping must be one of {', '.join(_BY_NAME)}, got {data.get('name')!r}."
        )
    return _BY_NAME[data["name"]]()
