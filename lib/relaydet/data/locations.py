"""Bytes of a single file, wherever a user may say that it is."""

from __future__ import annotations

from pathlib import Path

from relaydet.errors import RelayError


def read_bytes(location: str) -> bytes:
    """The bytes of the file at a location.

    Args:
        location: path of a file.

    Raises:
        RelayError: the file cannot be read.
    """
    try:
        return Path(location).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RelayError(f"{location}: cannot be read ({reason}); check the path.") from error
