"""The training that `benchmarks.kill_resume` kills: as a user writes it, and telling what it does.

    python -m benchmarks.kill_run CHECKPOINT_DIR END_FILE SEED

SEED is a number or "none". What happens goes to standard output, a line at a time and at once:
"start" before anything is imported, "fit", "step N DIGEST" when the noised gradients of step N are
there and before the weights have them, "save" and "saved" around each checkpoint, "end" when
END_FILE is written. END_FILE holds weights, optimizer, step counter, sensitivity and ledger.
"""

import json
import os
import pathlib
import sys
from typing import Any

RECORDS, BATCH_SIZE, EPOCHS, DELTA = 400, 50, 4, 1e-4
CHECKPOINT_STEPS = 3


def tell(*words: Any) -> None:
    """Writes a line that outlives the process, whatever happens next."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def the_plan(seed: int | None) -> Any:
    """Eight steps an epoch."""
    import keras_dpvit as kd

    return kd.PrivacyPlan(RECORDS, BATCH_SIZE, EPOCHS, DELTA, noise_multiplier=1.0, seed=seed)


def a_model() -> Any:
    """A classifier with noise in its attention, whose generators are a part of the state too."""
    import keras

    import keras_dpvit as kd

    keras.utils.set_random_seed(3)
    backbone = kd.DPViTBackbone(
        (8, 8, 1), patch_size=4, hidden_dim=8, num_heads=2, attention_noise_stddev=0.02, seed=4
    )
    return kd.DPViTClassifier(backbone, num_classes=10)


def an_optimizer(seed: int | None) -> Any:
    """Adam with averaged weights, which tells of each step's gradients."""
    import hashlib

    import tensorflow as tf

    import keras_dpvit as kd

    class Telling(kd.DPKerasAdamOptimizer):
        def private_trainer(self, model: Any, jit_compile: Any, loss_weights: Any = None) -> Any:
            self.trainer = super().private_trainer(model, jit_compile)
            return self.trainer

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            def tell_step(steps: Any, *gradients: Any) -> None:
                digest = hashlib.sha256(b"".join(g.numpy().tobytes() for g in gradients))
                tell("step", int(steps) - 1, digest.hexdigest()[:16])

            # The counter is ahead of the step whose noise these gradients have.
            told = tf.py_function(tell_step, [self.trainer.state.steps, *grads], [])
            with tf.control_dependencies([told]):
                return super().apply(grads, trainable_variables)

    return Telling(the_plan(seed), learning_rate=1e-2, use_ema=True, ema_momentum=0.9)


def tell_of_checkpoints() -> None:
    """Has each checkpoint tell when it begins to be written and when it is."""
    from keras_dpvit.training.checkpoint import Checkpoint

    save = Checkpoint.save

    def telling(*arguments: Any) -> None:
        tell("save")
        save(*arguments)
        tell("saved")

    Checkpoint.save = telling  # type: ignore[assignment]


def write_end(model: Any, path: str) -> None:
    """Everything that must not depend on whether the run was killed."""
    import numpy as np

    trainer = model.private_trainer
    ledger = model.privacy_ledger
    text = json.dumps({"ledger": ledger.to_dict(), "epsilon": ledger.epsilon(DELTA)})
    groups = {
        "weights": model.variables,
        "optimizer": model.optimizer.variables,
        "state": [trainer.state.steps, trainer.state.sensitivity],
    }
    arrays = {
        f"{name}_{i}": v.numpy() for name, group in groups.items() for i, v in enumerate(group)
    }
    # The name "end" appears with its whole content or not at all: this process is killed too.
    partial = pathlib.Path(f"{path}.partial.npz")
    np.savez(partial, record=np.frombuffer(text.encode(), np.uint8), **arrays)
    os.replace(partial, path)


def main(checkpoint_dir: str, end: str, seed: str) -> None:
    """Trains, or goes on training, to the end."""
    tell("start")
    import keras

    from keras_dpvit import datasets

    data = datasets.load("digits")
    model, number = a_model(), None if seed == "none" else int(seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(an_optimizer(number), loss)
    tell_of_checkpoints()
    tell("fit")
    model.fit(
        data.x_train[:RECORDS],
        data.y_train[:RECORDS],
        epochs=EPOCHS,
        verbose=0,
        checkpoint_dir=checkpoint_dir,
        checkpoint_steps=CHECKPOINT_STEPS,
    )
    write_end(model, end)
    tell("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
