"""What the functions of `patchtst_sweeps` raise, beside `tune.common.errors.WrongInput`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline.errors import DataError
from tune.common.errors import WrongInput
from tune.tracking.store import TrackingError


class SweepError(RuntimeError):
    """A sweep ended by a fault of the program; the message has the last lines of its stderr."""


class Unfinished(RuntimeError):
    """A sweep was interrupted, or MLflow lacks records of it. Nothing is lost: the same call goes on from there."""


@contextmanager
def wrong_input() -> Iterator[None]:
    """Inside, what a user can mend is raised as WrongInput, in one line."""
    try:
        yield
    except WrongInput:
        raise
    except (DataError, TrackingError) as error:
        raise WrongInput(" ".join(str(error).split())) from error
