"""The one exception for wrong input."""


class InputError(ValueError):
    """The user's input is wrong.

    The message is a single line that says what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """
