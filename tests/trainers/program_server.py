"""Runs programs in forks of a process that has imported TensorFlow and the programs once.

Reads one request a line, `{"program", "flags", "cwd", "env", "stdout", "stderr"}`, and answers with
the program's exit status. No operation of TensorFlow runs before a fork, so a program behaves as in
a new process, without the seconds that the imports take.
"""

import atexit
import importlib
import json
import os
import sys
import traceback


def next_request():
    """In a fork, the request to run; None in the server, at its end."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)
    return None


def enter(request):
    """Makes the process what the request asks for."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for name, number in (("stdout", 1), ("stderr", 2)):
        with open(request[name], "w") as file:
            os.dup2(file.fileno(), number)
    sys.path.insert(0, request["cwd"])


def run_and_end(program, flags):
    """Runs a program and ends the process at once: TensorFlow's own end takes seconds."""
    status = 0
    try:
        importlib.import_module(f"trainers.{program}").run(flags)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # as the programs have it
    import tensorflow as tf

    import keras_dpvit.models.classifier
    import keras_dpvit.training.trainer  # noqa: F401
    from trainers import main

    for program in main.programs():
        importlib.import_module(f"trainers.{program}")
    tf.config.list_physical_devices()  # which is not silent
    found = next_request()
    if found is not None:
        enter(found)
        run_and_end(found["program"], found["flags"])
