"""Trainings behind the tables and figures, and the images and features that they share."""

import dataclasses
import math
import time
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.privacy.head_plan import HeadPlan
from keras_dpvit.privacy.ledger import compose
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.reproduction.scores import METRICS, OutputsByEpoch, scores
from keras_dpvit.runs import heads
from keras_dpvit.runs import training as run_training
from keras_dpvit.runs.settings import RunSettings

_DIGITS = 4  # after the point, of what is kept


@dataclasses.dataclass(frozen=True)
class Training:
    """One training that is scored after every epoch.

    Attributes:
        preset: str, the network's size.
        settings: of the run: budget, members, optimizer. With `trainable="head"` and `weights` the
            head is trained on features that are computed once.
        private: bool; without privacy it is Adam at `settings.learning_rate`.
        examples: int or None, the number of training images, the first ones; None for all.
        overrides: arguments of the network in place of the preset's.
        draw: int, tells repeated trainings apart: each has noise, sample and first weights of its
            own.
    """

    preset: str
    settings: RunSettings
    private: bool = True
    examples: int | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    draw: int = 0

    @property
    def on_features(self) -> bool:
        """True for a head over frozen features."""
        return self.settings.weights is not None and self.settings.trainable == "head"

    def key(self) -> dict[str, Any]:
        """All that decides what comes out but for chance; JSON-able.

        Settings that are as they always are have no place in it, so that a new one changes none.
        """
        settings = self.settings
        changed = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if getattr(settings, field.name) != field.default
        }
        return {
            "preset": self.preset,
            "private": self.private,
            "examples": self.examples,
            "overrides": self.overrides,
            "draw": self.draw,
            **changed,
        }


class Bench:
    """Images to train on and to score, and the features of them, computed once.

    Args:
        to_train: (uint8 images, int labels).
        to_score: the same.
        num_classes: int.
    """

    def __init__(
        self, to_train: tuple[Array, Array], to_score: tuple[Array, Array], num_classes: int
    ) -> None:
        self._to_train, self._to_score = to_train, to_score
        self._num_classes = num_classes
        self._features: dict[tuple[str, ...], tuple[dict[str, Array], dict[str, Array]]] = {}

    def run(self, training: Training) -> dict[str, Any]:
        """Trains and scores.

        Returns:
            "steps" after each epoch, a list for each of `METRICS`, "epsilon" by accountant,
            "parameters", "trained_parameters", "macs" of one member, "seconds"; of several members
            "members_accuracy" each and "mean_accuracy" of their plain average too. The lists are
            of the fused members.
        """
        begin = time.perf_counter()
        members = self.members(training)
        return {**self._result(training, members), "seconds": round(time.perf_counter() - begin, 1)}

    def members(self, training: Training) -> list[tuple[Any, OutputsByEpoch]]:
        """Trains: each member, and what it said of the images to score after every epoch."""
        return self._heads(training) if training.on_features else [self._network(training)]

    def _result(self, training: Training, members: list[tuple[Any, OutputsByEpoch]]) -> Any:
        from keras_dpvit.models.description import describe

        labels = self._to_score[1]
        by_member = [outputs.probabilities for _, outputs in members]
        epochs = [
            scores(_fused(np.stack(each, axis=1)), labels) for each in zip(*by_member, strict=True)
        ]
        model = members[0][0]
        about = describe(model)
        found: dict[str, Any] = {
            "steps": members[0][1].steps,
            **{name: [round(epoch[name], _DIGITS) for epoch in epochs] for name in METRICS},
            "parameters": about["parameters"],
            "trained_parameters": about["trainable_parameters"],
            "macs": about["macs"],
        }
        if training.on_features:  # all that is frozen is in the features
            found["trained_parameters"] = int(model.get_layer("logits").kernel.shape.num_elements())
        if training.private:
            ledger = compose([member.privacy_ledger for member, _ in members], "shared")
            delta = members[0][0].privacy_delta()
            found["delta"] = delta
            found["epsilon"] = {
                name: round(ledger.epsilon(delta, name), _DIGITS) for name in ("rdp", "pld")
            }
        if len(members) > 1:
            last = [probabilities[-1] for probabilities in by_member]
            found["members_accuracy"] = [scores(p, labels)["accuracy"] for p in last]
            found["mean_accuracy"] = scores(np.mean(last, axis=0), labels)["accuracy"]
        return found

    # Heads over frozen features

    def _heads(self, training: Training) -> list[tuple[Any, OutputsByEpoch]]:
        import keras

        settings = training.settings
        model = self.classifier(training)
        blocks, scored = self.blocks(training, model)
        labels = self._to_train[1][: training.examples]
        if not training.private:
            return [self._plain_head(model, blocks, scored, labels, settings)]
        members = []
        for plan in run_training.plans(len(labels), settings, len(blocks)):
            model = self.classifier(training)
            if isinstance(plan, HeadPlan):
                heads.solved_on_blocks(model, blocks, labels, plan, settings)
                outputs = OutputsByEpoch(_logits_of_head(model, scored))
                outputs.keep(plan.num_steps)
                members.append((model, outputs))
                continue
            head, features = heads.head_on_features(model, blocks, plan, settings)
            outputs = OutputsByEpoch(_logits_of_head(model, scored))
            head.compile(run_training.optimizer_of(plan, settings), _loss(keras))
            epochs = math.ceil(settings.epochs)
            head.fit(features, labels, epochs=epochs, verbose=0, callbacks=[outputs])
            members.append((model, outputs))
        return members

    def _plain_head(
        self, model: Any, blocks: Any, scored: Any, labels: Array, settings: RunSettings
    ) -> tuple[Any, OutputsByEpoch]:
        import keras

        from keras_dpvit.training.frozen_features import features_of

        head, outputs = model.head_model(), OutputsByEpoch(_logits_of_head(model, scored))
        head.compile(keras.optimizers.Adam(settings.learning_rate), _loss(keras))
        head.fit(
            features_of(model, blocks),
            labels,
            batch_size=settings.batch_size,
            epochs=math.ceil(settings.epochs),
            verbose=0,
            callbacks=[outputs],
        )
        return model, outputs

    def classifier(self, training: Training) -> Any:
        """The network of a training as it is before it."""
        import keras_dpvit as kd

        return kd.DPViTClassifier.from_preset(
            training.preset,
            self._num_classes,
            weights=training.settings.weights,
            attention_noise_stddev=training.settings.attention_noise_stddev,
            norm_noise_stddev=training.settings.norm_noise_stddev,
            **heads.head_arguments(training.settings),
            **training.overrides,
        )

    def blocks(self, training: Training, model: Any) -> tuple[list[Array], list[Array]]:
        """Inputs of the head's whitened layers, of images to train on and to score.

        Args:
            training: of a head over frozen features.
            model: from `classifier`.
        """
        from keras_dpvit.models.synthetic_weights import whitened_layers
        from keras_dpvit.training.frozen_features import whitened_inputs

        place = training.preset, str(training.settings.weights), repr(training.overrides)
        if place not in self._features:
            whole = dataclasses.replace(
                training, settings=dataclasses.replace(training.settings, head_blocks=None)
            )
            reads_all = self.classifier(whole)
            names = [layer.name for layer in whitened_layers(reads_all)]
            print("Computing the features of all images once.", flush=True)
            train, score = (
                dict(zip(names, whitened_inputs(reads_all, images), strict=True))
                for images in (self._to_train[0], self._to_score[0])
            )
            self._features[place] = train, score
        names = [layer.name for layer in whitened_layers(model)]
        train, score = self._features[place]
        return [train[n][: training.examples] for n in names], [score[n] for n in names]

    # Whole networks

    def _network(self, training: Training) -> tuple[Any, OutputsByEpoch]:
        import keras

        settings, model = training.settings, self.classifier(training)
        images, labels = (part[: training.examples] for part in self._to_train)
        images = _resized(images, model.input_shape[1:])
        scored = _resized(self._to_score[0], model.input_shape[1:])
        outputs = OutputsByEpoch(lambda: model.predict(scored, batch_size=500, verbose=0))
        if training.private:
            (plan,) = run_training.plans(len(labels), settings)
            assert isinstance(plan, PrivacyPlan)
            optimizer, batches = run_training.optimizer_of(plan, settings), {}
        else:
            optimizer = keras.optimizers.Adam(settings.learning_rate)
            batches = {"batch_size": settings.batch_size}
        model.compile(optimizer, _loss(keras))
        epochs = math.ceil(settings.epochs)
        model.fit(images, labels, epochs=epochs, verbose=0, callbacks=[outputs], **batches)
        return model, outputs


def _resized(images: Array, image_shape: tuple[int, int, int]) -> Array:
    """Images as a network takes them."""
    if images.shape[1:] == tuple(image_shape):
        return images
    import PIL.Image

    from keras_dpvit.datasets.image_files import fitted

    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    return np.stack([fitted(PIL.Image.fromarray(image), image_shape) for image in squeezed])


def _loss(keras: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _fused(probabilities: Array) -> Array:
    """The members' probabilities `(images, members, classes)` as `FusedClassifier` fuses them."""
    import keras

    from keras_dpvit.layers.fusion import AdaptiveWeightedFusion

    return np.asarray(keras.ops.convert_to_numpy(AdaptiveWeightedFusion()(probabilities)[0]))


def _logits_of_head(model: Any, scored: list[Array]) -> Any:
    """A function that computes a head's logits of the images to score, from its present weights."""
    from keras_dpvit.training.frozen_features import features_of

    features = features_of(model, scored).astype("float32")
    kernel = model.get_layer("logits").kernel
    return lambda: features @ np.asarray(kernel)
