"""Where the code of this package lies: in its private folder, or around it in a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRIVATE = HERE / "_code"  # in a wheel
CODE = PRIVATE if PRIVATE.is_dir() else HERE.parent  # the folder with experiments.py
PACKAGES = ("tune", "model", "data_pipeline")


def put_on_path() -> None:
    """Let Python import PACKAGES from CODE. Nothing is imported.

    CODE comes last on `sys.path`, so that no import of the caller's program means anything else from now on.

    Raises:
        ImportError: another package or file with one of these names comes first.
    """
    if str(CODE) not in sys.path:
        sys.path.append(str(CODE))
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module without a spec, such as one that was made by hand
            spec = None
        origin = None if spec is None else spec.origin or "a folder without __init__.py"
        if origin is None or Path(origin).resolve().parent.parent != CODE:
            raise ImportError(
                f"patchtst_sweeps needs its own package {name!r}, and {origin} hides it: import patchtst_sweeps where "
                f"no file or package of the names {', '.join(PACKAGES)} comes first on sys.path"
            )
