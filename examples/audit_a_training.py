# %% [markdown]
"""Audit a training: what an attacker can prove about its records, beside the claimed epsilon.

Canaries are records that are in the training data or not, each by a coin. After the training an
attacker guesses the coins. Many right guesses prove that epsilon is at least so large.
"""

# %%
import argparse
import sys

import keras

import keras_dpvit as kd
from keras_dpvit.auditing.canaries import make_canaries, plant, public_num_examples
from keras_dpvit.auditing.canary_scores import GradientScores
from keras_dpvit.auditing.one_run import audit

parser = argparse.ArgumentParser(description="Bound a training's epsilon from below.")
parser.add_argument("--epsilon", type=float, default=4.0, help="the claim")
parser.add_argument("--canaries", type=int, default=600)
parser.add_argument("--guesses", type=int, default=120, help="fixed before anything is seen")
parser.add_argument("--epochs", type=int, default=10)
flags = parser.parse_args([] if "ipykernel" in sys.modules else None)

# %%
data = kd.datasets.load("digits")
aside = slice(flags.canaries)
canaries = make_canaries("noise", data.x_train[aside], data.y_train[aside], data.num_classes)
x, y = data.x_train[flags.canaries :], data.y_train[flags.canaries :]
print(f"{len(x)} other records, {canaries.included.sum()} of {len(canaries)} canaries are in")

# %% [markdown]
# The plan may depend on how many canaries there are, and not on how their coins fell.

# %%
num_examples = public_num_examples(len(x), len(canaries))
plan = kd.PrivacyPlan.for_target(
    epsilon=flags.epsilon,
    delta=1e-5,
    num_examples=num_examples,
    batch_size=num_examples // 6,
    epochs=flags.epochs,
)

# %% [markdown]
# Softmax regression is the sharper audit: the gradients of random pictures are nearly orthogonal.
# Put a `DPViTClassifier` here to audit that.

# %%
inputs = keras.Input(data.image_shape)
pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, -1.0)(inputs))
network = keras.Model(inputs, keras.layers.Dense(data.num_classes)(pixels))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model = kd.make_private(network)
model.compile(kd.DPKerasSGDOptimizer(plan, learning_rate=0.05), loss)

# %% [markdown]
# This attacker knows all other records and sees every noisy sum, as epsilon allows.

# %%
scores = GradientScores(canaries, x, y)
model.fit(*plant(x, y, canaries), epochs=flags.epochs, callbacks=[scores], verbose=0)
bound = audit(scores.scores, canaries.included, [flags.guesses], plan.delta)
print(f"right guesses       {bound.outcome.correct} of {bound.outcome.guesses}")
print(f"epsilon is at least {bound.epsilon:.3f} (95 % confidence)")
print(f"epsilon is at most  {plan.epsilon():.3f} (the claim)")
print("The claim is", "CONTRADICTED." if bound.epsilon > plan.epsilon() else "not contradicted.")

# %% [markdown]
# Records made to break a mechanism: how far does each move one step, over what the plan allows?

# %%
x, y = data.x_train[:24].astype("float32"), data.y_train[:24]
found = kd.auditing.neighbours(model, loss, x, y, plan)
for name, ratio in found.ratios.items():
    print(f"{name:32} {ratio:.4f}")
print(f"{len(found.ratios)} records tried: the sensitivity", "holds." if found.holds else "FAILS.")
