"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that names the argument or flag and what is allowed. Command-line
    programs print it and exit with status 2; everything else keeps its traceback.

    Example:
        >>> kd.PrivacyPlan(100, 200, 1, 1e-5, 1.0)
        Traceback (most recent call last):
        keras_dpvit.errors.InputError: batch_size must not exceed the number of examples ...
    """
