"""The errors a person can mend: one sentence that says what was got and what to do."""


class UserError(Exception):
    """Something outside the program is wrong; its message is one sentence with the remedy.

    The command line prints the message without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(UserError):
    """The command or its configuration is wrong, so nothing was started (exit code 2)."""

    exit_code = 2


class PreemptedError(UserError):
    """The machine is taken away; what was done is saved and the same command goes on (code 42)."""

    exit_code = 42
