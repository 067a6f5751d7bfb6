"""What libraries want of every process and a container may lack: a user's name, a home, folders for their caches."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from tune.common.errors import WrongInput
from tune.common.process import user_name
from tune.common.temporary import own_folder, temporary_folder

# Variables that name a library's cache, by default below HOME -> folder
CACHES = {
    "XDG_CACHE_HOME": "",
    "HF_HOME": "huggingface",  # huggingface_hub, transformers
    "MPLCONFIGDIR": "matplotlib",  # otherwise it warns, and makes a new one in each process
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
LONGEST_TMPDIR = 107 - len("/pymp-12345678/listener-12345678")  # bytes; multiprocessing's sockets lie there


def complete_surroundings() -> None:
    """Give this process and its children what is missing. Call it before torch, matplotlib or Ray is imported.

    A HOME that exists is left alone, as it may hold a user's configuration even if it cannot be written.
    """
    with suppress(FileNotFoundError, WrongInput):  # no temporary folder at all: a sweep says so
        _settle_tmpdir()
    if user_name() is None:  # torch asks for it when it is imported
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    home = Path(os.path.expanduser("~"))  # "~" itself where there is neither HOME nor an account
    there = home.is_absolute() and home.is_dir()
    if there and home != Path("/") and _can_be_written(home):
        return
    with suppress(WrongInput, OSError):  # no folder of our own: a sweep says so
        caches = own_folder() / "home"
        caches.mkdir(mode=0o700, exist_ok=True)
        if not there:
            os.environ["HOME"] = str(caches)
        for name, folder in CACHES.items():
            os.environ.setdefault(name, str(caches / ".cache" / folder))


def _settle_tmpdir() -> None:
    """Let TMPDIR name a folder that all processes of ours can use, wherever it names one that they cannot."""
    usable = tempfile.gettempdir()
    if len(os.fsencode(usable)) > LONGEST_TMPDIR and "RAY_TMPDIR" in os.environ:
        usable = tempfile.tempdir = str(temporary_folder())
    if os.environ.get("TMPDIR", "/tmp") != usable:  # nosec B108
        os.environ["TMPDIR"] = usable


def _can_be_written(folder: Path) -> bool:
    """Tried, as os.access says of root that it may write everywhere."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=folder))
    except OSError:
        return False
    return True
