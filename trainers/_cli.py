"""What the programs share: flags, one-line errors with exit status 2, quiet start of TensorFlow."""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

from keras_dpvit.errors import InputError


def run(main: Callable[[], None]) -> None:
    """Parses flags and runs `main`.

    Bad flags and `InputError` end in one line on stderr and exit status 2. `--help` prints the
    program's text and its flags and exits with 0.
    """

    def start(arguments: list[str]) -> None:
        if len(arguments) > 1:
            fail(f"unknown argument {arguments[1]!r}: flags are given as --name=value.")
        try:
            main()
        except InputError as error:
            fail(str(error))
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(start, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    if any(argument in ("-h", "-help", "--help") for argument in arguments[1:]):
        program = sys.modules["__main__"]
        print((program.__doc__ or "").strip(), "\n\nFlags:")
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        return list(flags.FLAGS(arguments))
    except flags.Error as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Prints the message in one line and ends the program with status 2."""
    one_line = " ".join(message.split())
    print(f"error: {one_line}", file=sys.stderr)
    sys.exit(2)
