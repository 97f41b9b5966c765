"""Settings of a run: budget, members, model and training."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Settings of a run, as `trainers.train` has them as flags.

    Attributes:
        epsilon: float, the budget of all members together.
        delta: float in (0, 1), or None for `auto_delta` of the public number of records.
        accountant: "rdp" or "pld", whose epsilon is kept within the budget.
        num_examples: int or None, the public number of records; None for the number of records
            rounded down to two digits, which is then taken as public.
        batch_size: int or None for one that fits the number of records, expected in a step.
        epochs: float, expected passes over the records.
        members: int, models to train and fuse.
        members_data: "shared" or "disjoint", see `FusedClassifier`.
        classes: list of str or None, the class names if they are public.
        weights: str or None, "synthetic" or a file of `trainers.pretrain`: weights from made-up
            images that every member starts from.
        backbone: str or None, a `.keras` file of another package whose model every member has below
            a new head; the records behind it are taken as public.
        backbone_pixels: one of `PIXELS` of `models.backbone_pixels`, what that model takes.
        init_weights: str or None, a file whose weights every member starts from.
        trainable: "all", "head" or "bias", see `choose_trainable`.
        solver: "optimizer", by steps; or "least_squares" or "feature_covariance", a head that is
            solved for, see `HeadPlan`.
        loss: "softmax" or "per_class".
        optimizer: "adam" or "sgd".
        learning_rate: float or None for the optimizer's own default, or for a whitened head one
            that fits the number of records and steps.
        momentum: float, of SGD.
        center_noise: float, the noise multiplier with which the means of a whitened head's
            features are released; None leaves them where made-up images put them; "auto" is
            one or the other by the public number of records (`heads.center_noise`).
        whitening_rank: int or None for the preset's own, see `DPViTClassifier`.
        head_blocks: list of str or None for all, see `DPViTClassifier`.
        clipping: "median_layer" or "flat".
        l2_norm_clip: float or None, a fixed sensitivity in place of the dynamic one.
        attention_noise_stddev: float, noise after the softmax while training.
        norm_noise_stddev: float, noise on normalisation statistics while training.
        physical_batch_size: int or None, examples in memory at once.
        seed: int or None; under a seed privacy rests on its secrecy.
    """

    epsilon: float = 3.0
    delta: float | None = 1e-5
    accountant: str = "rdp"
    num_examples: int | None = None
    batch_size: int | None = None
    epochs: float = 10.0
    members: int = 1
    members_data: str = "shared"
    classes: list[str] | None = None
    weights: str | None = None
    backbone: str | None = None
    backbone_pixels: str = "auto"
    init_weights: str | None = None
    trainable: str = "all"
    solver: str = "optimizer"
    loss: str = "softmax"
    optimizer: str = "adam"
    learning_rate: float | None = None
    momentum: float = 0.0
    center_noise: float | str | None = None
    whitening_rank: int | None = None
    head_blocks: list[str] | None = None
    clipping: str = "median_layer"
    l2_norm_clip: float | None = None
    attention_noise_stddev: float = 0.0
    norm_noise_stddev: float = 0.0
    physical_batch_size: int | None = None
    seed: int | None = None
