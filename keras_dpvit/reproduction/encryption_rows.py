"""The rows of the encryption table, what the paper printed for them, and what each scale trains."""

import dataclasses
from typing import Any

from keras_dpvit.errors import InputError

SCALES = ("small", "full")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        words: the encryption, for readers.
        network: "shake", "resnet18" or "vit".
        published: accuracy in % on CIFAR-10 and CIFAR-100, None where none was printed.
        source: where these figures stand.
        scheme: of `keras_dpvit.encryption.SCHEMES`; None for plain images.
        options: of the scheme.
        adaptation: see `models.networks.adaptation.adapt`.
        transformed: bool, whether the network's initial weights are put under the key.
        learning_rate: float, of the paper where it differs from the network's.
    """

    words: str
    network: str
    published: tuple[float | None, float | None]
    source: str = "Table I"
    scheme: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    adaptation: str = "none"
    transformed: bool = False
    learning_rate: float | None = None


_MADONO = "Madono et al. 2020, Table 3"
_ETC = {"mode": "color", "legacy_channel_bug": True}  # how the published figure came about

ROWS = {
    "le_adapted": Row("LE, LE-AdaptNet", "shake", (94.49, 75.48), scheme="le", adaptation="le"),
    "etc": Row("EtC (published colour code)", "shake", (85.94, 61.90), scheme="etc", options=_ETC),
    "ele_adapted": Row(
        "ELE, ELE-AdaptNet", "shake", (83.06, 62.97), scheme="ele", adaptation="ele"
    ),
    "pe": Row("PE", "resnet18", (92.03, None), scheme="pe"),
    "proposed": Row(
        "proposed (ViT cipher)", "vit", (96.64, 84.42), scheme="vit_block", learning_rate=0.3
    ),
    "plain_resnet18": Row("plain", "resnet18", (95.53, None)),
    "plain_shake": Row("plain", "shake", (96.70, 83.59)),
    "plain_vit": Row("plain", "vit", (99.11, 92.48)),
    "le": Row("LE", "shake", (94.94, 78.25), _MADONO, scheme="le"),
    "etc_adapted": Row(
        "EtC (published), ELE-AdaptNet",
        "shake",
        (89.09, 71.91),
        _MADONO,
        scheme="etc",
        options=_ETC,
        adaptation="ele",
    ),
    "transformed_vit": Row(
        "ViT cipher, weights under the key",
        "vit",
        (None, None),
        "not printed; equals plain_vit",
        scheme="vit_block",
        transformed=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings of the training of one network.

    Attributes:
        image_size: int, side of the images it sees.
        block_size: int, of the encryption.
        sizes: arguments of the network.
        optimizer: "sgd", with momentum 0.9, Nesterov's for the convolutional networks, or "adam".
        learning_rate: float.
        schedule: "steps" divides by 10 after half and three quarters of the epochs; "cosine" warms
            up for a twentieth of the steps and goes down to 0.
        batch_size: int.
        weight_decay: float, added to the gradient as the papers' L2 penalty.
        clip: float or None, of the gradient's norm.
        epochs: int, or None for the scale's.
        steps: int or None, instead of epochs.
    """

    image_size: int
    block_size: int
    sizes: dict[str, Any]
    optimizer: str
    learning_rate: float
    schedule: str
    batch_size: int
    weight_decay: float = 0.0
    clip: float | None = None
    epochs: int | None = None
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """A scale, with what the flags changed.

    Attributes:
        scale: its name.
        datasets: names of the data sets.
        networks: by name.
        train_examples: int or None for all but the validation images.
        validation_examples: int, cut off the training images; they choose the epoch.
        test_examples: int or None for all; seen once, after training.
        epochs: int or None for each network's own.
        augment: bool, random crops and flips before the encryption.
        seed: int.
    """

    scale: str
    datasets: tuple[str, ...]
    networks: dict[str, Training]
    train_examples: int | None
    validation_examples: int
    test_examples: int | None = None
    epochs: int | None = None
    augment: bool = False
    seed: int = 1

    def epochs_of(self, network: str, num_examples: int) -> int:
        """Passes over the training images for a network."""
        training = self.networks[network]
        if self.epochs is not None:
            return self.epochs
        if training.steps is not None:
            return -(-training.steps * training.batch_size // num_examples)
        if training.epochs is None:
            raise InputError(f"epochs must be given for {network}.")
        return training.epochs

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; equal settings give equal results up to the order of floating-point sums."""
        return dataclasses.asdict(self)


_SMALL_VIT = {"patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
_NETWORKS = {
    "small": {
        "shake": Training(
            32, 4, {"depth": 14, "alpha": 32}, "sgd", 0.05, "cosine", 50, 5e-4, None, 6
        ),
        "resnet18": Training(32, 4, {"width": 12}, "sgd", 0.05, "cosine", 50, 5e-4, None, 6),
        "vit": Training(64, 8, _SMALL_VIT, "adam", 1e-3, "cosine", 50, 0.0, 1.0, 12),
    },
    "full": {
        "shake": Training(
            32, 4, {"depth": 110, "alpha": 270}, "sgd", 0.1, "steps", 512, 5e-4, None, 305
        ),
        "resnet18": Training(32, 4, {"width": 64}, "sgd", 0.1, "steps", 512, 5e-4, None, 305),
        "vit": Training(
            224, 16, {"preset": True}, "sgd", 0.03, "cosine", 512, 5e-4, 1.0, steps=10_000
        ),
    },
}


def settings_for(scale: str, **changes: Any) -> Settings:
    """The settings of a scale.

    Args:
        scale: one of `SCALES`.
        **changes: fields of `Settings` instead of the scale's.
    """
    base: dict[str, Any] = {"scale": scale, "networks": _NETWORKS[scale]}
    if scale == "small":
        base.update(
            datasets=("fashion_mnist",),
            train_examples=3000,
            validation_examples=2000,
            test_examples=5000,
        )
    else:
        base.update(
            datasets=("cifar10", "cifar100"),
            train_examples=None,
            validation_examples=5000,
            augment=True,
        )
    return Settings(**{**base, **changes})
