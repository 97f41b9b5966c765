"""The one door to TensorFlow Privacy.

On TensorFlow >= 2.16 `import tensorflow_privacy` fails, because it imports estimators. The
package's own switch, set before the import, leaves what is used here: its quantile estimator and
the epsilon that its users know.
"""

import functools
import sys
from typing import Any


@functools.cache
def _package() -> Any:
    if "tensorflow_privacy" not in sys.modules:
        sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    import tensorflow_privacy

    return tensorflow_privacy


def version() -> str:
    """TensorFlow Privacy's version."""
    return str(_package().__version__)


def geometric_quantile_estimator(
    initial_estimate: float,
    target_quantile: float,
    learning_rate: float,
    expected_num_records: float,
) -> Any:
    """TF Privacy's `QuantileEstimatorQuery` with geometric updates (Andrew et al. 2021).

    Its own draw of noise follows `tf.random`'s global seed, which a program may fix, so its
    standard deviation is set to 0 here: the caller hands over a count that is noised already.
    """
    _package()
    from tensorflow_privacy.privacy.dp_query import quantile_estimator_query

    return quantile_estimator_query.QuantileEstimatorQuery(
        initial_estimate=initial_estimate,
        target_quantile=target_quantile,
        learning_rate=learning_rate,
        below_estimate_stddev=0.0,
        expected_num_records=expected_num_records,
        geometric_update=True,
    )


def compute_dp_sgd_privacy(
    num_examples: int, batch_size: int, noise_multiplier: float, epochs: float, delta: float
) -> float:
    """TF Privacy's epsilon of DP-SGD with a fixed clipping norm and Poisson sampling (RDP).

    It minimises over fewer RDP orders than dp_accounting's default, so it can come out higher.
    """
    _package()
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib

    epsilon, _ = compute_dp_sgd_privacy_lib.compute_dp_sgd_privacy(
        num_examples, batch_size, noise_multiplier, epochs, delta
    )
    return float(epsilon)


def compute_dp_sgd_privacy_statement(
    num_examples: int, batch_size: int, noise_multiplier: float, epochs: float, delta: float
) -> str:
    """TF Privacy's own statement of DP-SGD without microbatches (RDP)."""
    _package()
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib

    text = compute_dp_sgd_privacy_lib.compute_dp_sgd_privacy_statement(
        number_of_examples=num_examples,
        batch_size=batch_size,
        num_epochs=epochs,
        noise_multiplier=noise_multiplier,
        delta=delta,
        used_microbatching=False,
    )
    return str(text)
