"""Rules that scale the groups of one record's gradient against each other.

A rule here looks at one record alone, so it costs no privacy and bounds nothing: the bound is the
release cap of `sensitivity`, applied afterwards to the whole gradient.
"""

import abc
import dataclasses
import math
from typing import Any

from keras_dpvit import _validate
from keras_dpvit.errors import InputError

GROUPS = ("layer", "variable", "block", "stage")


def _one_of_groups(**argument: Any) -> str:
    return _validate.one_of(GROUPS, **argument)


def _norms(**argument: Any) -> float | tuple[float, ...]:
    """One norm, or one for each group."""
    ((name, value),) = argument.items()
    if isinstance(value, (list, tuple)):
        return tuple(_validate.clipping_norm(**{name: norm}) for norm in value)
    return _validate.clipping_norm(**argument)


class Clipping(abc.ABC):
    """A rule from the norms of a record's gradient, group by group, to a factor for each group.

    Attributes:
        groups: what a group is. "layer": a layer that owns trainable variables; "variable": one
            of these; "block": all in one layer of the model's top level (a transformer block);
            "stage": all blocks of a stage of a `DPViTBackbone`, else as "block".
    """

    name: str
    groups: str = "layer"

    @abc.abstractmethod
    def factors(self, norms: Any) -> Any:
        """The factor of each group's gradient.

        Args:
            norms: float tensor `(records, groups)`, L2 norms.

        Returns:
            float tensor `(records, groups)`, not negative. Where a norm is not finite the factor
            means nothing, and the release cap drops the record.
        """

    def thresholds(self, norms: Any) -> Any:
        """The norm to which a record's groups are clipped, `(records,)`; infinite if to none."""
        import tensorflow as tf

        return tf.fill(tf.shape(norms)[:1], tf.constant(math.inf, norms.dtype))


@dataclasses.dataclass(frozen=True)
class MedianLayerClipping(Clipping):
    """Each group is clipped to the median of the record's own group norms.

    Equations 9 and 10 of the DP-ViT paper (Yang 2024). The middle norm for an odd number of
    groups, the mean of the two middle ones for an even number.

    Guarantee: none alone. The threshold is computed from the record that it should bound; the
    release cap bounds it.

    Args:
        groups: str, see `Clipping`.

    Example:
        >>> clipping = kd.MedianLayerClipping(groups="block")
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, 1.0, clipping=clipping)
    """

    groups: str = "layer"
    name = "median_layer"

    def __post_init__(self) -> None:
        _validate.keep(self, groups=_one_of_groups)

    def thresholds(self, norms: Any) -> Any:
        """The record's median norm (eq 9), float tensor `(records,)`."""
        import tensorflow as tf

        groups = norms.shape[-1]
        ordered = tf.sort(norms, axis=-1)
        return 0.5 * (ordered[:, (groups - 1) // 2] + ordered[:, groups // 2])

    def factors(self, norms: Any) -> Any:
        import tensorflow as tf

        median = self.thresholds(norms)
        return tf.minimum(tf.math.divide_no_nan(median[:, None], norms), 1.0) + tf.cast(
            norms == 0.0, norms.dtype
        )


@dataclasses.dataclass(frozen=True)
class FlatClipping(Clipping):
    """Groups keep their proportions; only the release cap scales the gradient (Abadi et al.).

    Example:
        >>> plan = kd.PrivacyPlan(
        ...     1000, 100, 1, 1e-4, 1.0,
        ...     clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(1.0),
        ... )
    """

    name = "flat"

    def factors(self, norms: Any) -> Any:
        import tensorflow as tf

        return tf.ones_like(norms)


@dataclasses.dataclass(frozen=True)
class FixedLayerClipping(Clipping):
    """Each group is clipped to its own fixed norm (He et al. 2023, constant thresholds).

    Guarantee: the clipped gradient's norm is at most `sqrt(sum of the squared thresholds)`; with a
    `FixedSensitivity` of that size the release cap never acts.

    Args:
        l2_norm_clips: float from 1e-9 to 1e9 for every group, or one for each in the order of
            the model's groups; must not be chosen by looking at the private data.
        groups: str, see `Clipping`.

    Example:
        >>> plan = kd.PrivacyPlan(1000, 100, 1, 1e-4, 1.0, clipping=kd.FixedLayerClipping(0.1))
    """

    l2_norm_clips: float | tuple[float, ...] = 1.0
    groups: str = "layer"
    name = "fixed_layer"

    def __post_init__(self) -> None:
        _validate.keep(self, groups=_one_of_groups, l2_norm_clips=_norms)

    def factors(self, norms: Any) -> Any:
        import tensorflow as tf

        clips, groups = self.l2_norm_clips, norms.shape[-1]
        if isinstance(clips, tuple) and len(clips) != groups:
            raise InputError(
                f"l2_norm_clips must be one number or {groups}, one for each group of the model, "
                f"got {len(clips)}."
            )
        thresholds = tf.cast(clips, norms.dtype)
        return tf.minimum(tf.math.divide_no_nan(thresholds, norms), 1.0) + tf.cast(
            norms == 0.0, norms.dtype
        )


@dataclasses.dataclass(frozen=True)
class AutomaticClipping(Clipping):
    """Gradients are normalised instead of clipped (Bu et al. 2023, AUTO-S): `g / (|g| + gamma)`.

    Guarantee: the normalised gradient's norm is below 1; with `FixedSensitivity(1.0)` the release
    cap never acts, and no threshold need be chosen.

    Args:
        gamma: float above 0, keeps small gradients small.
        layerwise: bool; each of G groups is normalised by its own norm, over `sqrt(G)`.
        groups: str, see `Clipping`.

    Example:
        >>> plan = kd.PrivacyPlan(
        ...     1000, 100, 1, 1e-4, 1.0,
        ...     clipping=kd.AutomaticClipping(), sensitivity=kd.FixedSensitivity(1.0),
        ... )
    """

    gamma: float = 0.01
    layerwise: bool = False
    groups: str = "layer"
    name = "automatic"

    def __post_init__(self) -> None:
        _validate.keep(
            self, gamma=_validate.positive, layerwise=_validate.true_or_false, groups=_one_of_groups
        )

    def factors(self, norms: Any) -> Any:
        import tensorflow as tf

        if self.layerwise:
            return norms.shape[-1] ** -0.5 / (norms + self.gamma)
        whole = tf.norm(norms, axis=-1, keepdims=True)
        return tf.ones_like(norms) / (whole + self.gamma)


_BY_NAME: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (MedianLayerClipping, FlatClipping, FixedLayerClipping, AutomaticClipping)
}


def clipping_to_dict(clipping: Any) -> dict[str, Any]:
    """JSON-able form."""
    return {"name": clipping.name, **dataclasses.asdict(clipping)}


def clipping_from_dict(data: dict[str, Any]) -> Clipping:
    """The inverse of `clipping_to_dict`.

    Raises:
        InputError: on an unknown name.
    """
    arguments = dict(data)
    name = arguments.pop("name", None)
    if name not in _BY_NAME:
        raise InputError(f"clipping must be one of {', '.join(_BY_NAME)}, got {name!r}.")
    clipping: Clipping = _BY_NAME[name](**arguments)
    return clipping
