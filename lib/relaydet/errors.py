"""The exceptions that a user of relaydet is meant to see."""

from relaydet.console import shown


class RelayError(Exception):
    """A mistake that the user can mend: one sentence with what is wrong, where, and what to do.

    The command line prints the sentence and exits with code 2; a notebook shows it alone.
    """

    stopped = False
    """Whether the user had asked for a stop before it came to this."""

    def __str__(self) -> str:
        """Return the sentence; names in it may come from strangers' files."""
        return shown(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class DataError(RelayError):
    """An image cannot be read; nothing was computed from its batch."""


class DamagedError(RelayError):
    """A file is not as it was written: it counts as absent wherever something else can stand in."""


class StopError(RelayError):
    """A stop was asked for while something was waited for; nothing was computed meanwhile."""

    stopped = True


class ForeignFileError(RelayError):
    """A file is whole and yet not to be used: it is of another run, or of a newer version."""


class StoreError(RelayError):
    """The store does not do what it is asked, and may again: it is full, away or locked.

    Training goes on without it for a while, and tries again.
    """


class RankLostError(RelayError):
    """Another of the processes that train together has failed, or does not answer."""

    def __init__(self, message: str, told: bool = False) -> None:
        """Make one; `told` is whether the other left word why, so that trying again is no use."""
        super().__init__(message)
        self.told = told


class LeaseHeldError(RelayError):
    """Another session is training the run."""


class LeaseLostError(RelayError):
    """Another session has taken the run over: this one must not write to it any more."""
