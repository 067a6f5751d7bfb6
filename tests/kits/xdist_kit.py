"""How tests are shared out among processes (`make test` starts two): the files whole, and one real sweep at a time.

A sweep has a dozen processes of its own. Two at once make each other slow enough for waits to run out, while a sweep
beside small tests leaves neither of two cores idle.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"end_to_end", "faults"}  # all their tests start Ray, a cluster, servers or a browser
MARK = "pytest.mark.cluster"  # in the files elsewhere that do


@functools.cache
def runs_a_sweep(scope: str) -> bool:
    """Whether the test file `scope`, relative to the repository, needs the machine to itself."""
    return Path(scope).parent.name in FOLDERS or MARK in (ROOT / scope).read_text()


class OneSweepAtATime(LoadFileScheduling):
    """Gives out the next file with a sweep while no process has one, else small files; at the end whatever is left."""

    def _assign_work_unit(self, node: Any) -> None:
        busy = any(runs_a_sweep(scope) for other in self.nodes if other is not node for scope in self._begun(other))
        for scope in self.workqueue:
            if runs_a_sweep(scope) != busy:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)

    def _begun(self, node: Any) -> list[str]:
        """Files that the process has and has not finished."""
        work: Mapping[str, Mapping[str, bool]] = self.assigned_work[node]
        return [scope for scope, done in work.items() if not all(done.values())]
