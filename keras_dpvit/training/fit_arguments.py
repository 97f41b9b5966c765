"""Checks of what `fit` is told beside its records."""

import logging
from typing import Any

from keras_dpvit.errors import InputError
from keras_dpvit.privacy.plan import PrivacyPlan

_HIGH_EPSILON = 20.0


def check_size(plan: PrivacyPlan, num_records: int) -> None:
    """Checks the number of records against the plan's.

    Poisson samples cost the same for any number, which is private there: nothing is said of it.
    In a shuffle the number decides how many steps a pass has, and it is public.

    Raises:
        InputError: under a shuffled plan for another number of records.
    """
    if plan.sampling == "shuffled" and num_records != plan.num_examples:
        raise InputError(
            f"num_examples must be the number of records ({num_records}) where they are shuffled, "
            f"got {plan.num_examples}: a pass would have other steps than the plan counts."
        )


def warn_of_weak_promises(plan: PrivacyPlan) -> None:
    """Warns of a delta or a target epsilon under which a record is hardly protected."""
    logger = logging.getLogger("keras_dpvit")
    if plan.delta * plan.num_examples >= 1:
        logger.warning(
            "delta=%g is not below 1/num_examples (%.2g): a training that publishes one record "
            "whole may have it. A tenth of 1/num_examples or less is usual.",
            plan.delta,
            1 / plan.num_examples,
        )
    if (plan.target_epsilon or 0) > _HIGH_EPSILON:
        logger.warning(
            "epsilon=%g promises little: what the model shows may be e^%g times as likely with a "
            "record as without it. 1 to 10 is usual.",
            plan.target_epsilon,
            plan.target_epsilon,
        )


def check_fit_arguments(plan: PrivacyPlan, arguments: dict[str, Any]) -> None:
    """Raises `InputError` on arguments of `fit` that the plan decides or that it cannot honour."""
    batch_size = arguments.pop("batch_size", None)
    if batch_size not in (None, plan.batch_size):
        raise InputError(
            f"batch_size is the plan's ({plan.batch_size}), got {batch_size}: leave it out, or set "
            "physical_batch_size to save memory."
        )
    steps = arguments.pop("steps_per_epoch", None)
    if steps not in (None, plan.steps_per_epoch):
        raise InputError(
            f"steps_per_epoch is the plan's ({plan.steps_per_epoch}), got {steps}: leave it out."
        )
    arguments.pop("shuffle", None)
