"""The one exception that the command line shows as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input. The message is one sentence that says what is wrong and how to mend it; exit code 2."""
