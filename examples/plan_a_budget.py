"""Plan a budget: what epsilon, batch and epochs cost in noise, before any training.

Needs no pictures and no TensorFlow.
"""

import argparse
import functools
import math

import keras_dpvit as kd
from keras_dpvit.privacy.ledger import PrivacyLedger

parser = argparse.ArgumentParser(description="Compare privacy budgets for n training pictures.")
parser.add_argument("--num_examples", type=int, default=1400, help="n, rounded down")
parser.add_argument("--epsilon", type=float, default=3.0)
parser.add_argument("--epochs", type=int, default=60)
flags = parser.parse_args()

n, epsilon, epochs = flags.num_examples, flags.epsilon, flags.epochs
# A tenth of 1/n at most, rounded down to one digit.
power = 10.0 ** math.floor(math.log10(0.1 / n))
delta = math.floor(0.1 / n / power) * power
batch = n // 6
print(f"{n} training pictures, delta {delta:.1g}\n")


@functools.cache  # finding the noise takes half a second
def plan_for(epsilon, batch_size, epochs):
    """The plan with the least noise for these settings."""
    return kd.PrivacyPlan.for_target(
        epsilon=epsilon, delta=delta, num_examples=n, batch_size=batch_size, epochs=epochs
    )


def show(title, plans):
    """One line a plan. Noise over batch is the noise on the average gradient of a step."""
    print(f"{title:10} {'steps':>6} {'noise multiplier':>17} {'over batch':>11} {'and steps':>10}")
    for name, plan in plans.items():
        over_batch = plan.noise_multiplier / plan.batch_size
        print(
            f"{name:<10} {plan.steps:6} {plan.noise_multiplier:17.2f} {over_batch:11.4f} "
            f"{over_batch / math.sqrt(plan.steps):10.5f}"
        )
    print()


show("epsilon", {e: plan_for(e, batch, epochs) for e in (1.0, 3.0, 8.0)})
# The last column hardly changes: the batch decides how many steps there are, not how much noise
# is left after all of them.
show("batch", {b: plan_for(epsilon, b, epochs) for b in (n // 24, n // 6, n // 2)})
show("epochs", {e: plan_for(epsilon, batch, e) for e in (20, 60, 180)})

# Trying settings and keeping the best costs epsilon as well. With `kd.random_trials` the number of
# trainings is random and the best alone is released:
#
#     trials = kd.random_trials(mean=5, shape=0.0)
#     for trial in trials:
#         ...  # the same plan, settings drawn by chance
#         trials.offer(model, score_on_held_out_pictures)
#     model = trials.best()
plan = plan_for(epsilon, batch, epochs)
once = PrivacyLedger(plan.entries(plan.steps))
print(f"{'trainings':10} {'all published':>14} {'best of random_trials':>22}")
for number in (1, 5, 10):
    published = PrivacyLedger(once.entries * number).epsilon(delta)
    best = once.compose_selection(mean=number, shape=0.0).epsilon(delta)
    print(f"{number:<10} {published:14.2f} {best:22.2f}")
