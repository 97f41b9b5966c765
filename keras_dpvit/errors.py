"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that names the argument or flag and what is allowed. Command-line
    programs print it and exit with status 2; everything else keeps its traceback.
    """
