"""One template on each node that may run trials, from the moment the sweep knows the node.

What a trial imports takes 5 to 25 seconds of one core (docs/measurements.md). It is imported while the device is probed
and the sweep is planned, and once on each node, whatever its number of GPUs. A node that joins later has none: an
actor there starts its own (`tune.worker.supervisor`).
"""

from __future__ import annotations

import functools
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.cluster.share import Share
from tune.common.files import make_private
from tune.worker.process import ForkServer

ANSWERS_WITHIN_S = 30.0  # a node that has not started its template by then gets none


class NodeForkServer:
    """A Ray actor that owns its node's template, which ends with it."""

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"templates-{os.getuid()}"
        if folder.is_symlink():
            raise RuntimeError(f"{folder} is a link, so its sockets are not trusted")
        make_private(folder, "sockets")  # whoever reaches one is served
        _remove_dead(folder)
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # as Ray shows an actor that asks for no GPU
            del os.environ["CUDA_VISIBLE_DEVICES"]  # or what is imported would remember that there is none
        self._socket = folder / secrets.token_hex(4)  # short: the paths of sockets are limited
        self._template = ForkServer.start(listen_at=self._socket)

    def socket(self) -> str:
        """Where the template listens, or will in a moment."""
        return str(self._socket)


def _remove_dead(folder: Path) -> None:
    """Sockets that nobody listens at: Ray kills what its workers have started, which then cannot clear away."""
    for path in folder.iterdir():
        if path.is_socket():
            try:
                ForkServer.reach(str(path)).end()
            except OSError:
                path.unlink(missing_ok=True)


class Templates:
    """The keepers of one sweep's templates; they end with the sweep's Ray job."""

    def __init__(self, ray: Any, share: Share) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and share.fits(node["Resources"])]
        there = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
        keeper = ray.remote(num_cpus=0)(NodeForkServer)
        self._keepers = {
            node: keeper.options(scheduling_strategy=strategy).remote() for node, strategy in there.items()
        }

    @functools.cached_property
    def sockets(self) -> Mapping[str, str]:
        """Node id -> where its template listens. Waits for nodes that have just begun, ANSWERS_WITHIN_S at most."""
        asked = {keeper.socket.remote(): node for node, keeper in self._keepers.items()}
        answered, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERS_WITHIN_S)
        for reference in silent:
            self._ray.kill(self._keepers[asked[reference]])  # it would import beside trials that are timed
            _say_that_none(asked[reference], f"no answer within {ANSWERS_WITHIN_S:g} s")
        found = {asked[reference]: self._answer(asked[reference], reference) for reference in answered}
        return {node: path for node, path in found.items() if path is not None}

    def _answer(self, node: str, reference: Any) -> str | None:
        from ray.exceptions import RayError

        try:
            path: str = self._ray.get(reference)
        except RayError as error:  # the node was lost, or its folder is not to be trusted
            _say_that_none(node, str(error).strip().splitlines()[-1].strip())
            return None
        return path


def _say_that_none(node: str, why: str) -> None:
    print(f"node {node[:8]}: each GPU's first trial imports by itself there: {why}", file=sys.stderr, flush=True)
