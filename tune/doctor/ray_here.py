"""The check that starts Ray and looks into one of its workers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tune.cluster import connect, probe
from tune.cluster.share import choose_share
from tune.common.errors import WrongInput, first_line
from tune.doctor.finding import Finding, Place
from tune.machine.code_identity import OURS, packages_sha256
from tune.machine.environment import changes, environment
from tune.storage.check_folder import cache_place

IN_A_WORKER = ("tune.worker.supervisor", "tune.trial.run", "model.heads", "data_pipeline.series.store")


def starts(place: Place) -> Iterator[Finding]:
    """Start Ray, let a worker import our packages and look at its device, and end Ray."""
    started = False
    try:
        with connect.connected(None) as ray:
            share = choose_share(ray, gpus_per_trial=None, max_concurrent=None)
            started = True
            yield _finding("start", f"a trial gets {share.cpus} CPUs and {share.gpus:g} GPUs")
            yield _worker(ray)
            facts, there = probe.probe(ray, share, cache_place(place.storage))
            different = changes(environment(), there)
            found = f"sees {facts.name} and imports torch" + (f"; other versions: {different[0]}" if different else "")
            yield _finding("probe", found, works=not different)
    except WrongInput as error:
        yield _finding("probe" if started else "start", str(error), works=False)


def _worker(ray: object) -> Finding:
    from ray import get, remote
    from ray.exceptions import RayError

    try:
        theirs = get(remote(num_cpus=0, max_calls=1, max_retries=0)(import_ours).remote())
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        found = f"a worker cannot import our packages: {type(cause).__name__}: {first_line(cause)}"
        return _finding("worker", f"{found}; a file in the current folder or on PYTHONPATH may hide them", works=False)
    if theirs != packages_sha256():
        found = "a worker imports other code than this program: look for copies of " + ", ".join(OURS)
        return _finding("worker", f"{found} in the current folder and on PYTHONPATH", works=False)
    return _finding("worker", "imports our packages")


def import_ours() -> str:
    """In a worker: the hash of our packages as it imports them."""
    for name in IN_A_WORKER:
        importlib.import_module(name)
    return packages_sha256()


def _finding(name: str, found: str, *, works: bool = True) -> Finding:
    return Finding(kind="Ray", name=name, works=works, found=found, needed=True)
