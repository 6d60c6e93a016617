"""The one exception that a user of relaydet is meant to see."""


class RelayError(Exception):
    """A mistake that the user can mend: one sentence with what is wrong, where, and what to do.

    The command line prints the sentence and exits with code 2; a notebook shows it alone.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"RelayError: {self}"]
