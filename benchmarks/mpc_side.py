"""The jobs of `benchmarks.mpc` that need Keras on JAX, in a process of their own."""

import json
import pathlib
import sys

from keras_dpvit.baselines import mpc

if __name__ == "__main__":
    mpc.use_jax()
    from benchmarks import mpc as benchmark
    from keras_dpvit.baselines.mpc_runtime import FRACTION_BITS

    job, argument = sys.argv[1:]
    if job == "errors":
        print(json.dumps(benchmark.function_errors(argument, FRACTION_BITS)))
    else:
        benchmark.fitted_scatter(pathlib.Path(argument))
