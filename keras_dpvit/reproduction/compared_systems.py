"""The systems that the DP-ViT paper compares, each trained within one budget on the same images."""

import dataclasses
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import Ledger, compose
from keras_dpvit.reproduction.scores import softmax
from keras_dpvit.reproduction.trainings import Bench, Training
from keras_dpvit.runs.settings import RunSettings

_BATCH = 500  # images classified at a time


@dataclasses.dataclass(frozen=True)
class Scale:
    """Data, networks and settings of a comparison.

    Attributes:
        name: str.
        dataset: str, of `keras_dpvit.datasets`.
        image_shape: (height, width, channels) of its images.
        preset: str, the network below the heads; `recipe` are the settings of the heads, which
            "dpvit", "fused" and "fedavg" train.
        network_preset: str, a network that is trained whole and small enough for "mpc"; `network`
            are the settings of its training.
        clients: int, of "fedavg", which take `rounds` rounds of `local_steps` steps.
        mpc_images: int, the first test images, which are classified on secret shares.
        ppgan_steps: int, of the generator; `ppgan_images` images are made up in the end.
    """

    name: str
    dataset: str
    image_shape: tuple[int, int, int]
    preset: str
    recipe: RunSettings
    network_preset: str
    network: RunSettings
    clients: int
    rounds: int
    local_steps: int
    mpc_images: int
    ppgan_steps: int
    ppgan_images: int


@dataclasses.dataclass(frozen=True)
class Images:
    """Images that every system trains on and is scored on.

    Attributes:
        train, test: (uint8 images, int labels).
        num_classes: int.
    """

    train: tuple[Array, Array]
    test: tuple[Array, Array]
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trained system.

    Attributes:
        model: a network whose layers are counted.
        steps: those after which `accuracies` on the test images were taken.
        accuracies: of the same times.
        ledger: what the training cost.
        predict: gives probabilities `(images, classes)` of images.
        trained_parameters: int, numbers that were learned from private images.
        training_bytes: int, what leaves the images' owners while training.
        answer_bytes: int, what one picture's answer takes between machines, of the sender that
            sends most.
        answer_seconds: float or None, of one answer, where it is more than the network's own time.
        notes: further figures.
    """

    model: Any
    steps: list[int]
    accuracies: list[float]
    ledger: Ledger
    predict: Callable[[Array], Array]
    trained_parameters: int
    training_bytes: int
    answer_bytes: int
    answer_seconds: float | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class System:
    """A system of the comparison.

    Attributes:
        title: str.
        protects: str, what it keeps from whom, in one sentence.
        train: (scale, images, bench, epsilon, seed) to an `Outcome`.
    """

    title: str
    protects: str
    train: Callable[[Scale, Images, Bench, float, int], Outcome]


def _probabilities(model: Any) -> Callable[[Array], Array]:
    def predict(images: Array) -> Array:
        return softmax(np.asarray(model.predict(images, batch_size=_BATCH, verbose=0)))

    return predict


def _size(images: Array) -> int:
    """Bytes of images as their owners send them, a byte for each number."""
    return int(np.prod(images.shape))


def _accuracies(each: list[Array], labels: Array) -> list[float]:
    return [float((probabilities.argmax(axis=1) == labels).mean()) for probabilities in each]


def _head(scale: Scale, settings: RunSettings, seed: int) -> Training:
    shape = {"image_shape": scale.image_shape}
    return Training(scale.preset, settings, overrides=shape, draw=seed)


def _central(members: int) -> Callable[..., Outcome]:
    """A trainer who holds all images, by the recipe."""

    def train(scale: Scale, images: Images, bench: Bench, epsilon: float, seed: int) -> Outcome:
        import keras

        from keras_dpvit.layers.fusion import AdaptiveWeightedFusion

        settings = dataclasses.replace(scale.recipe, epsilon=epsilon, members=members)
        found = bench.members(_head(scale, settings, seed))
        models, outputs = zip(*found, strict=True)
        fuse = AdaptiveWeightedFusion()

        def fused(each: list[Array]) -> Array:
            if len(each) == 1:
                return each[0]
            return np.asarray(keras.ops.convert_to_numpy(fuse(np.stack(each, axis=1))[0]))

        by_epoch = [fused(list(e)) for e in zip(*(o.probabilities for o in outputs), strict=True)]
        one = int(models[0].get_layer("logits").kernel.shape.num_elements())
        return Outcome(
            model=models[0],
            steps=outputs[0].steps,
            accuracies=_accuracies(by_epoch, images.test[1]),
            ledger=compose([model.privacy_ledger for model in models], "shared"),
            predict=lambda pictures: fused([_probabilities(model)(pictures) for model in models]),
            trained_parameters=members * one,
            training_bytes=_size(images.train[0]),
            answer_bytes=_size(images.test[0][:1]),
        )

    return train


def _fedavg(scale: Scale, images: Images, bench: Bench, epsilon: float, seed: int) -> Outcome:
    """Clients that train the recipe's head privately on features of their own images."""
    import keras

    import keras_dpvit as kd
    from keras_dpvit.baselines import federated
    from keras_dpvit.models.linear_head import linear_head
    from keras_dpvit.training.frozen_features import features_of

    settings = dataclasses.replace(scale.recipe, epsilon=epsilon, center_noise=None)
    training = _head(scale, settings, seed)
    model, labels = bench.classifier(training), images.train[1]
    features, scored = (features_of(model, blocks) for blocks in bench.blocks(training, model))
    rows = federated.split(labels, scale.clients, None, seed)
    clip, steps = settings.l2_norm_clip or 1.0, scale.rounds * scale.local_steps
    # As the recipe's sum of rates, for as many records as the noise of the mean is worth.
    records = len(labels) / scale.clients**0.5
    rate = 0.3 * min(epsilon, 5.0) * records / clip / steps
    # A model of its own: what is sent to clients has to be whole, and no part of another.
    dense = linear_head(model).dense
    layer = keras.layers.Dense.from_config(dense.get_config())
    head = keras.Sequential([keras.Input(features.shape[1:]), layer])
    layer.set_weights(dense.get_weights())
    private = kd.make_private(head, trainable="head")
    private.start_from(model.privacy_ledger, model.privacy_notes)
    delta = settings.delta or 1e-5
    result = federated.train(
        private,
        [(features[of_client], labels[of_client]) for of_client in rows],
        rounds=scale.rounds,
        test_data=(scored, images.test[1]),
        optimizer=keras.optimizers.SGD(rate),
        batch_size=max(1, min(map(len, rows)) // 2),
        local_steps=scale.local_steps,
        record_privacy=federated.RecordPrivacy(epsilon, delta, clip),
        seed=seed,
    )
    if len(result.failures[-1]) == scale.clients:
        raise RuntimeError(f"no client replied in the last round: {result.failures[-1][0]}")
    dense.set_weights(head.get_weights())
    return Outcome(
        model=model,
        steps=[scale.local_steps * number for number in range(len(result.accuracies))],
        accuracies=result.accuracies,
        ledger=private.privacy_ledger,
        predict=_probabilities(model),
        trained_parameters=int(model.get_layer("logits").kernel.shape.num_elements()),
        training_bytes=result.bytes_from_clients + result.bytes_to_clients,
        answer_bytes=_size(images.test[0][:1]),
        notes={"failures": sum(map(len, result.failures)), "clients": scale.clients},
    )


def _mpc(scale: Scale, images: Images, bench: Bench, epsilon: float, seed: int) -> Outcome:
    """A network trained privately as a whole, whose answers three parties compute on shares."""
    from keras_dpvit.baselines import mpc

    settings = dataclasses.replace(scale.network, epsilon=epsilon)
    ((model, outputs),) = bench.members(Training(scale.network_preset, settings, draw=seed))
    asked = images.test[0][: scale.mpc_images]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        answers = mpc.private_inference(path, asked)
    right = answers.labels == images.test[1][: scale.mpc_images]
    return Outcome(
        model=model,
        steps=outputs.steps,
        accuracies=_accuracies(outputs.probabilities, images.test[1]),
        ledger=model.privacy_ledger,
        predict=_probabilities(model),
        trained_parameters=sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        training_bytes=_size(images.train[0]),
        answer_bytes=round(max(answers.bytes_per_image)),
        answer_seconds=answers.seconds_per_image,
        notes={
            "images_on_shares": len(asked),
            "accuracy_on_shares": float(right.mean()),
            "agreement_with_plain": answers.agreement,
            "largest_error": answers.largest_error,
        },
    )


def _ppgan(scale: Scale, images: Images, bench: Bench, epsilon: float, seed: int) -> Outcome:
    """A private GAN, and a classifier that has seen its images alone."""
    from keras_dpvit.baselines import ppgan, ppgan_results

    (x, y), delta = images.train, scale.recipe.delta or 1e-5
    plan = ppgan.gan_plan(
        epsilon=epsilon,
        delta=delta,
        num_examples=len(y),
        steps=scale.ppgan_steps,
        accountant=scale.recipe.accountant,
    )
    gan = ppgan.PPGAN(scale.image_shape, images.num_classes, plan)
    gan.train(x, y)
    with tempfile.TemporaryDirectory() as folder:
        made = ppgan_results.write_images(gan, scale.ppgan_images, pathlib.Path(folder) / "images")
        model = ppgan_results.trained_classifier(made, gan)
    score = ppgan_results.accuracy(model, *images.test)
    learned = (*gan.discriminator.trainable_variables, *gan.generator.variables)
    return Outcome(
        model=model,
        steps=[plan.steps],
        accuracies=[score],
        ledger=model.privacy_ledger,
        predict=_probabilities(model),
        trained_parameters=sum(int(np.prod(v.shape)) for v in learned),
        training_bytes=_size(x),
        answer_bytes=_size(images.test[0][:1]),
        notes={"generated_images": scale.ppgan_images},
    )


SYSTEMS: dict[str, System] = {
    "dpvit": System(
        "DP-ViT, one model",
        "each training image, from all who see the model; the trainer sees the images",
        _central(1),
    ),
    "fused": System(
        "DP-ViT, two models fused",
        "each training image, from all who see the models; the trainer sees the images",
        _central(2),
    ),
    "fedavg": System(
        "FedAvg, clients that train privately",
        "each training image, from the server, other clients and all who see the model; images "
        "stay with their client",
        _fedavg,
    ),
    "ppgan": System(
        "PP-GAN, a classifier of made-up images",
        "each training image with its label, from all who see the made-up images or what is "
        "trained on them; the trainer sees the images",
        _ppgan,
    ),
    "mpc": System(
        "MPC, three parties on secret shares",
        "images that are asked about and the weights, from any one of the parties; and each "
        "training image, from all who see answers; the trainer sees the training images",
        _mpc,
    ),
}


def require(systems: Sequence[str]) -> None:
    """Says at once that a package is missing which one of the systems needs.

    Args:
        systems: names of `SYSTEMS`.

    Raises:
        InputError: the message names the extra.
    """
    from keras_dpvit.baselines.federated import flower

    if "fedavg" in systems:
        flower.require()
    if "mpc" in systems and importlib.util.find_spec("spu") is None:
        raise InputError("MPC needs the package spu: pip install 'keras_dpvit[mpc]'.")
