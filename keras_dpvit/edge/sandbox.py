"""Runs a TFLite file once in a separate process, to see whether it can be run at all.

LiteRT is native code. It refuses what is not a flatbuffer, but a flatbuffer whose tables contradict
each other may make it read or write anywhere, and end the process without a word.
"""

import subprocess
import sys

_SECONDS = 60
_REFUSED = 3


def failure(content: bytes) -> str | None:
    """The reason that LiteRT cannot run a model, in one line; None if it can.

    Args:
        content: the bytes of the file.
    """
    from keras_dpvit import _reasons  # here, because the child runs this file without the package

    try:
        # By its path and with -P: the child needs nothing of this package.
        process = subprocess.run(
            [sys.executable, "-P", __file__],
            input=content,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"one image takes more than {_SECONDS} seconds."
    if process.returncode == 0:
        return None
    if process.returncode == _REFUSED:
        return _reasons.reason(process.stdout.decode(errors="replace"))
    return "LiteRT crashes on it."


def _main() -> None:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=sys.stdin.buffer.read(), num_threads=1)
        interpreter.allocate_tensors()
        for given in interpreter.get_input_details():
            interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
        interpreter.invoke()
        for made in interpreter.get_output_details():
            interpreter.get_tensor(made["index"])
    except Exception as error:  # whatever it is, the file cannot be run
        print(str(error).strip() or type(error).__name__)
        sys.exit(_REFUSED)


if __name__ == "__main__":
    _main()
