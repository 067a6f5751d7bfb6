"""Check, before a sweep starts, that the nodes see its folders as the driver does.

Tune notices a storage path that is not shared at the first checkpoint, after an epoch of GPU time.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.datasets import get_dataset
from data_pipeline.errors import DataError
from data_pipeline.series.store import locate
from tune.cluster.share import Share
from tune.common.errors import WrongInput

ANSWERS_WITHIN_S = 120.0  # the node starts a process with our packages
SEEN_WITHIN_S = 10.0  # a network file system may show a new file a moment later
ASK = "driver"  # the driver's file; a node's own is named after it


def check_nodes(ray: Any, share: Share, *, storage: Path, data_dir: Path, dataset: str) -> None:
    """Every other node that could run a trial must read a file in `storage`, write one, and find the data.

    Raises WrongInput naming a node that cannot, or that does not answer within ANSWERS_WITHIN_S seconds. Nodes that
    join later are not asked.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and share.fits(node["Resources"])
    }
    if not nodes:
        return
    storage.mkdir(parents=True, exist_ok=True)
    folder, token = Path(tempfile.mkdtemp(prefix=".seen-", dir=storage)), secrets.token_hex(16)
    try:
        (folder / ASK).write_text(token)
        for node_id, problem in _answers(ray, nodes, (str(folder), token, str(data_dir), dataset)):
            if problem is None and not _holds(folder / node_id, token):
                problem = f"what it writes in {storage} is not seen on this machine"
            if problem:
                raise WrongInput(
                    f"node {nodes[node_id]}: {problem}; --storage-path {storage} and --data-dir {data_dir} have to be "
                    "the same folders on every node: mount one file system there (NFS, EFS)"
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(ray: Any, nodes: Mapping[str, str], question: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """The id of each node and its problem. A node that is lost meanwhile is only named: it will run nothing."""
    from ray.exceptions import RayError, RayTaskError

    asked = {_ask(ray, node_id, question): node_id for node_id in nodes}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWERS_WITHIN_S)
    if silent:
        address = nodes[asked[silent[0]]]
        raise WrongInput(f"node {address} did not answer within {ANSWERS_WITHIN_S:g} s; see `ray status`")
    for reference in answered:
        node_id = asked[reference]
        try:
            yield node_id, ray.get(reference)
        except RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            yield node_id, f"looking at its folders failed: {type(cause).__name__}: {str(cause).splitlines()[0]}"
        except RayError as error:
            print(f"node {nodes[node_id]} was lost while it was asked: {type(error).__name__}", file=sys.stderr)


def _ask(ray: Any, node_id: str, question: tuple[str, ...]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # no CPU: a busy node answers too
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=there)(look)
    return task.remote(node_id, *question)


def look(node_id: str, folder: str, token: str, data_dir: str, dataset: str) -> str | None:
    """On a node: its problem with the sweep's folders, in words; None if there is none."""
    asked = Path(folder)
    if not _holds(asked / ASK, token):
        return f"what this machine writes in {asked.parent} is not seen there"
    try:
        (asked / node_id).write_text(token)
    except OSError as error:
        return f"it cannot write in {asked.parent} ({error.strerror})"
    try:
        locate(get_dataset(dataset), Path(data_dir))
    except DataError as error:
        return f"{error}"
    return None


def _holds(file: Path, token: str) -> bool:
    """Whether a file has the content `token`, now or within SEEN_WITHIN_S seconds."""
    until_s = time.monotonic() + SEEN_WITHIN_S
    while True:
        try:
            if file.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > until_s:
            return False
        time.sleep(0.2)
