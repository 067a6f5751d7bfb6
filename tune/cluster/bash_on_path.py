"""Ray starts each worker through `bash`, which PATH may not lead to."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tune.common.errors import WrongInput

ELSEWHERE = "/usr/local/bin:/usr/bin:/bin"  # where systems keep it


@contextmanager
def bash_on_path(folder: Path) -> Iterator[None]:
    """Inside, PATH leads to bash, through a link in `folder` if it does not already, and to nothing else besides.

    WrongInput if this machine has no bash.
    """
    if shutil.which("bash") is not None:
        yield
        return
    bash = shutil.which("bash", path=ELSEWHERE)
    if bash is None:
        raise WrongInput("Ray starts its workers with bash, and there is none: apt-get install bash")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "bash").symlink_to(bash)
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join(filter(None, (before, str(folder))))
    try:
        yield
    finally:
        os.environ["PATH"] = before
