"""A process that Ray takes for `uv run`, where uv need not be installed: Ray looks at its ancestors' command lines."""

from __future__ import annotations

from pathlib import Path

# Only modules that Python has in itself: it may be started where other modules are traps
_RUN = """\
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def as_uv_run(folder: Path, *words: str) -> list[str]:
    """The command line `uv run WORDS`. Start it in `folder`, with `executable=sys.executable`."""
    (folder / "run").write_text(_RUN)
    return ["uv", "run", *words]
