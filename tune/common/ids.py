"""Which sweep a person means: its id, the beginning of it, the name that it was started with, or `last`."""

from __future__ import annotations

from collections.abc import Sequence

from tune.common.errors import WrongInput

LAST = "last"
WAYS = "give a sweep's id, the beginning of one, a sweep's name for the newest of it, or last"
_SHOWN = 5
_AFTER_NAME = 3  # parts of an id after the sweep's name: date, time, and letters that make it unlike any other


def sweep_meant(given: str, known: Sequence[str]) -> str | None:
    """The id that `given` means among `known`, newest first; None if it means none.

    Raises WrongInput where it is the beginning of several.
    """
    if given in known:
        return given
    if given == LAST:
        return known[0] if known else None
    named = [sweep_id for sweep_id in known if sweep_id.rsplit("-", _AFTER_NAME)[0] == given]
    if named:
        return named[0]
    begun = [sweep_id for sweep_id in known if given and sweep_id.startswith(given)]
    if len(begun) > 1:
        more = f" and {len(begun) - _SHOWN} more" if len(begun) > _SHOWN else ""
        raise WrongInput(f"{given!r} is the beginning of {', '.join(begun[:_SHOWN])}{more}: {WAYS}")
    return begun[0] if begun else None
