"""One fork server on each node that may run trials, as soon as the sweep knows the node.

Importing what a trial needs takes one core 5 to 25 s (docs/measurements.md). Here it is imported once a node, whatever
its number of GPUs, while the device is probed and the sweep is planned. A node that joins later has none: an actor
there starts its own (`tune.worker.supervisor`).
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
from tune.common.surroundings import complete_surroundings
from tune.worker.process import ForkServer

_TOKEN = secrets.token_hex(4)  # begins the names of this driver's sockets, whose paths must be short
ANSWERS_WITHIN_S = 30.0  # a node that has not started its fork server by then gets none


class NodeForkServer:
    """A Ray actor that owns its node's fork server, which ends with it."""

    def __init__(self, name: str) -> None:
        complete_surroundings()
        folder = _socket_folder()
        if folder.is_symlink():
            raise RuntimeError(f"{folder} is a link, so its sockets are not trusted")
        make_private(folder, "sockets")  # whoever reaches one is served
        _remove_dead(folder)
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # as Ray sets it for an actor that asks for no GPU
            del os.environ["CUDA_VISIBLE_DEVICES"]  # or imported packages would remember that there is none
        self._socket = folder / name
        self._fork_server = ForkServer.start(listen_at=self._socket)

    def socket(self) -> str:
        """Where the fork server listens, or will in a moment."""
        return str(self._socket)


def _socket_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"forkservers-{os.getuid()}"


def remove_own_sockets() -> None:
    """Remove the sockets of this driver's fork servers on this machine, once Ray has ended: it kills what owns them."""
    for path in _socket_folder().glob(f"{_TOKEN}*"):
        path.unlink(missing_ok=True)


def _remove_dead(folder: Path) -> None:
    """Remove sockets that nobody listens at: Ray kills what its workers started, before that can clean up."""
    for path in folder.iterdir():
        if path.is_socket():
            try:
                ForkServer.reach(str(path)).end()
            except OSError:
                path.unlink(missing_ok=True)


class NodeForkServers:
    """The actors that own one sweep's fork servers. They end with the sweep's Ray job."""

    def __init__(self, ray: Any, share: Share) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and share.fits(node["Resources"])]
        strategies = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
        actor = ray.remote(num_cpus=0)(NodeForkServer)
        self._actors = {
            node: actor.options(scheduling_strategy=strategy).remote(f"{_TOKEN}{at:x}")
            for at, (node, strategy) in enumerate(strategies.items())
        }

    @functools.cached_property
    def sockets(self) -> Mapping[str, str]:
        """Node id -> socket of its fork server. Waits at most ANSWERS_WITHIN_S for nodes that have just started."""
        asked = {actor.socket.remote(): node for node, actor in self._actors.items()}
        answered, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERS_WITHIN_S)
        for reference in silent:
            self._ray.kill(self._actors[asked[reference]])  # or it would import while trials are timed
            _warn(asked[reference], f"no answer within {ANSWERS_WITHIN_S:g} s")
        answers = {asked[reference]: self._answer(asked[reference], reference) for reference in answered}
        return {node: path for node, path in answers.items() if path is not None}

    def _answer(self, node: str, reference: Any) -> str | None:
        from ray.exceptions import RayError

        try:
            path: str = self._ray.get(reference)
        except RayError as error:  # the node was lost, or its folder is not to be trusted
            _warn(node, str(error).strip().splitlines()[-1].strip())
            return None
        return path


def _warn(node: str, why: str) -> None:
    print(f"node {node[:8]}: each GPU's first trial imports by itself there: {why}", file=sys.stderr, flush=True)
