"""The errors that a user of this package sees."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system reports for a full disk, a used-up quota or a too large file."""


class DataError(ValueError):
    """Wrong data, or a wrong request for data. Its one line says what was given, what is allowed and what to do.

    The command line prints the line and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class DataFaults(DataError):
    """Several faults of one file, a line each. The command line prints the lines and exits with 2."""

    def __init__(self, lines: Iterable[str]) -> None:
        ValueError.__init__(self, "\n".join(one_line(line) for line in lines))


class MissingFile(DataError):
    """A file is not there, and cannot be downloaded. The message says where to put it."""


class DataUnsupported(DataError):
    """This machine cannot run this feed configuration. The message is the reason."""


def one_line(text: str, limit: int = 600) -> str:
    """`text` without line breaks or control characters, cut to `limit` characters."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def nearest(given: str, names: Iterable[str]) -> str:
    """`; did you mean 'NAME'?` for the name most like `given`, ignoring case; empty if no name is like it."""
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), lowered, n=1)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""
