"""Loses nodes of a Ray cluster on this machine as a cloud does: all processes of a node at once."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

LOST, PREEMPTED = "SIGKILL of a worker node", "spot preemption of a worker node"


def node_processes(node: Any) -> list[psutil.Process]:
    """The node's own processes and all that they have started."""
    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    processes: dict[int, psutil.Process] = {}
    for pid in own:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            processes |= {each.pid: each for each in [process, *process.children(recursive=True)]}
    return list(processes.values())


def _send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def lose_node(cluster: Any, node: Any, moments: random.Random) -> str:
    """The machine is gone from one moment to the next."""
    _send(node_processes(node), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
    return "at once"


def preempt_node(cluster: Any, node: Any, moments: random.Random) -> str:
    """As a cloud does: in half of the cases its notice reaches Ray. Then every process gets SIGTERM, and the machine is
    gone some seconds later."""
    announced = moments.random() < 0.5
    if announced:
        _drain(cluster, node, deadline_s=5)
        time.sleep(moments.uniform(0.0, 1.0))
    processes = node_processes(node)
    _send(processes, signal.SIGTERM)
    grace_s = moments.uniform(0.2, 2.0)
    time.sleep(grace_s)
    _send(list({*processes, *node_processes(node)}), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
    return f"{'with' if announced else 'without'} a notice to Ray, SIGKILL {grace_s:.1f} s after SIGTERM"


def _drain(cluster: Any, node: Any, *, deadline_s: int) -> None:
    """As `ray drain-node` does, and an autoscaler that was notified of a preemption."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    accepted, why = GcsClient(address=cluster.address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "spot preemption",
        int(time.time() * 1000) + deadline_s * 1000,
    )
    assert accepted, why


HOW: dict[str, Callable[[Any, Any, random.Random], str]] = {LOST: lose_node, PREEMPTED: preempt_node}
