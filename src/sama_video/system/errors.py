"""Bad input, as one sentence: what the command shows instead of a traceback."""


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and how to fix it; exit code 2.

    It names settings as Python does, in backquotes: `num_frames`. The command shows them as its options: --num-frames.
    """
