"""Shared parts of the programs: flags, `--help`, one-line errors with exit status 2."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from absl import flags

from keras_dpvit.errors import InputError

HELP = ("-h", "-help", "--help")


def run(
    main: Callable[[], None],
    flag_values: flags.FlagValues,
    text: str | None,
    argv: Sequence[str] | None = None,
    expand: Callable[[list[str]], list[str]] | None = None,
) -> None:
    """Parses flags and runs `main`.

    `--help` prints the program's text and its flags. Bad flags and `InputError` end in one line on
    stderr and exit status 2, Ctrl-C in exit status 130.

    Args:
        main: the program's job.
        flag_values: the program's flags; values of an earlier run in this process are forgotten.
        text: the program's docstring.
        argv: the flags as typed (default: those of the command line).
        expand: makes of them those that count.

    Raises:
        SystemExit: with the exit status, where it is not 0.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    if any(argument in HELP for argument in typed):
        print((text or "").strip(), "\n\nFlags:")
        print(flag_values.get_help(include_special_flags=False))
        return
    command_line = sys.argv
    try:
        typed = typed if expand is None else expand(typed)
        for name in flag_values:
            flag_values[name].unparse()
        sys.argv = [command_line[0], *typed]  # audits record the flags that they find there
        _parse(flag_values)
        main()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        sys.argv = command_line


def run_command(
    commands: Mapping[str, tuple[Callable[[], None], flags.FlagValues, str]],
    text: str | None,
    argv: Sequence[str] | None = None,
) -> None:
    """Runs the command that the first argument names.

    Args:
        commands: for each name its job, its flags and its text, as for `run`.
        text: the program's docstring, printed for `--help` and without an argument.
        argv: the arguments as typed (default: those of the command line).

    Raises:
        SystemExit: with the exit status, where it is not 0.
    """
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in HELP:
        print((text or "").strip())
        return
    if command not in commands:
        fail(f"command must be one of {', '.join(commands)}, got {command!r}.")
    run(*commands[command], arguments)


def _parse(flag_values: flags.FlagValues) -> None:
    try:
        _, *others = flag_values(sys.argv)
    except flags.Error as error:
        fail(str(error))
    if others:
        fail(f"unknown argument {others[0]!r}: flags are given as --name=value.")


def fail(message: str) -> NoReturn:
    """Prints the message in one line and ends the program with status 2."""
    one_line = " ".join(message.split())
    print(f"error: {one_line}", file=sys.stderr)
    sys.exit(2)
