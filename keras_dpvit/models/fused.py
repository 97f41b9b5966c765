"""FusedClassifier: several classifiers in one model, their ledgers composed."""

from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.layers.fusion import AdaptiveWeightedFusion
from keras_dpvit.models.private_model import PrivatelyTrainable
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.ledger import Ledger, compose


@keras.saving.register_keras_serializable(package="keras_dpvit")
class FusedClassifier(keras.Model):
    """Members that see the same image, fused by adaptive weights (eq 14-17).

    The fusion learns nothing: it is post-processing of the members, so the fused model costs
    what the members cost together. It is not trained itself; its members are.

    Args:
        members: list of classifiers with equal input shape that return logits
            `(batch, classes)`; with their privacy ledgers.
        members_data: "shared" if the members were trained on the same records, whose events then
            compose; "disjoint" if each record went to one member by a rule that looks at no
            other record (`privacy.sampling.independent_parts`), and the larger epsilon counts.

    Input shape:
        `(batch, height, width, channels)`, pixels 0..255.

    Output shape:
        a dict: "probabilities" `(batch, classes)`, "weights" `(batch, members)` of eq 16,
        "member_probabilities" `(batch, members, classes)`.

    Raises:
        InputError: on fewer than two members, one member twice, or shapes that differ.

    Example:
        ```python
        fused = keras_dpvit.FusedClassifier([model_a, model_b], members_data="disjoint")
        probabilities = fused.predict(images)["probabilities"]
        ```

    Example:
        >>> one, two = (kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3) for _ in range(2))
        >>> fused = kd.FusedClassifier([one, two], members_data="shared")
        >>> fused.predict(np.zeros((2, 8, 8, 1)), verbose=0)["probabilities"].shape
        (2, 3)
    """

    def __init__(self, members: Any, members_data: str = "shared", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        members = list(members)
        _check_members(members)
        compose([member.privacy_ledger for member in members], members_data)
        self.members = members
        self.members_data = members_data
        self.fusion = AdaptiveWeightedFusion(name="fusion")
        self.fusion.build((None, len(members), self.output_shape[-1]))
        self.built = True  # its members are

    def call(self, images: Any, training: bool | None = None) -> dict[str, Any]:
        logits = [member(images, training=training) for member in self.members]
        each = keras.ops.stack(
            [keras.ops.softmax(keras.ops.cast(part, "float32")) for part in logits], axis=1
        )
        fused, weights = self.fusion(each)
        return {"probabilities": fused, "weights": weights, "member_probabilities": each}

    @property
    def input_shape(self) -> Any:
        return self.members[0].input_shape

    @property
    def output_shape(self) -> Any:
        """Shape of the fused probabilities."""
        return self.members[0].output_shape

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`; `export.saved_model` writes the privacy card along."""
        if not kwargs.get("input_signature"):
            shape = (None, *self.input_shape[1:])
            kwargs["input_signature"] = [keras.InputSpec(dtype="float32", shape=shape)]
        return super().export(filepath, *args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: only the members of a fused model are trained."""
        raise InputError("A FusedClassifier is not trained: train its members, then fuse them.")

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as `fit` is."""
        self.fit()

    @property
    def privacy_ledger(self) -> Ledger:
        """The members' ledgers, composed as `members_data` says."""
        return compose([member.privacy_ledger for member in self.members], self.members_data)

    def privacy_statement(self, delta: float | None = None) -> str:
        """The privacy statement of the fused model, at `delta` or the members' own."""
        return statement.statement(self.privacy_ledger, self.privacy_delta(delta))

    def privacy_delta(self, delta: float | None = None) -> float:
        """`delta` if given, else the largest the members were planned for."""
        if delta is not None:
            return delta
        return max(member.privacy_delta() for member in self.members)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "members": [keras.saving.serialize_keras_object(member) for member in self.members],
            "members_data": self.members_data,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "FusedClassifier":
        config = dict(config)
        config["members"] = [
            keras.saving.deserialize_keras_object(member, custom_objects=custom_objects)
            for member in config["members"]
        ]
        return cls(**config)


def _check_members(members: list[Any]) -> None:
    if len(members) < 2:
        raise InputError(f"members must be at least two models, got {len(members)}.")
    for member in members:
        if not isinstance(member, PrivatelyTrainable):
            raise InputError(
                "members must be DPViTClassifier or make_private models (they carry the privacy "
                f"ledger), got {type(member).__name__}."
            )
    if len({id(member) for member in members}) < len(members):
        raise InputError("members must be different models, got one of them twice.")
    for what in ("input_shape", "output_shape"):
        shapes = {getattr(member, what) for member in members}
        if len(shapes) > 1:
            raise InputError(f"members must agree in {what}, got {sorted(map(str, shapes))}.")
