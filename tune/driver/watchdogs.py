"""Tune callbacks that end a sweep: at a signal, or when it would wait for nodes for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune as ray_tune

from tune.cluster.autoscaler import SAY_EVERY_S, Node, alive_nodes
from tune.common import signals

POLL_S = 5.0  # how often Ray is asked which nodes are alive


class SignalWatchdog(ray_tune.Callback):
    """Ends Tune's loop when a signal has arrived, between two of its steps: nothing is cut in half."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in every round of its loop. Raises Stopped."""
        signals.check()


class DriverNodeWatchdog(ray_tune.Callback):
    """Interrupts a sweep whose driver has lost Ray on its own machine: Tune would wait for it for ever."""

    def __init__(self) -> None:
        self._polled_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in every round of its loop. Raises KeyboardInterrupt."""
        if time.monotonic() - self._polled_s < POLL_S:
            return
        self._polled_s = time.monotonic()
        own = ray.get_runtime_context().get_node_id()
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own):
            print("Ray on this machine was lost: it was killed, or ran out of memory", file=sys.stderr)
            raise KeyboardInterrupt


class TrialNodesWatchdog(ray_tune.Callback):
    """Warns when a cluster has no node left for a trial, and interrupts a sweep that gets no other. Tune is silent.

    fits: whether a node with these resources could run a trial.
    wait_s: how long a new one may take; at least SAY_EVERY_S, as replacing a node takes a moment.
    """

    def __init__(self, fits: Callable[[Node], bool], wait_s: float, say: Callable[[str], None]) -> None:
        self._fits, self._limit_s, self._say = fits, max(wait_s, SAY_EVERY_S), say
        self._polled_s = self._said_s = -POLL_S
        self._gone_s: float | None = None  # since when there is no such node

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in every round of its loop. Raises KeyboardInterrupt."""
        now_s = time.monotonic()
        if now_s - self._polled_s < POLL_S:
            return
        self._polled_s = now_s
        if any(self._fits(node) for node in alive_nodes(ray)):
            self._gone_s = None
            return
        if self._gone_s is None:
            self._gone_s = self._said_s = now_s
        waited_s = now_s - self._gone_s
        if waited_s >= self._limit_s:
            print(f"no node that could run a trial has joined the cluster for {waited_s:.0f} s", file=sys.stderr)
            raise KeyboardInterrupt
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            line = f"the cluster has no node left that could run a trial: {waited_s:.0f} of at most {self._limit_s:g} s"
            self._say(f"{line} (--wait-for-gpus); `ray status` shows what is starting")
