"""Files are shared out so that one process at a time has a real sweep, until only sweeps are left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed")
from xdist_kit import OneSweepAtATime  # noqa: E402

# Real files: the scheduler reads them for their mark. Two folders and a marked file hold sweeps.
FAULT, MARKED, END_TO_END = "faults/test_kills.py", "benchmarks/test_scale.py", "end_to_end/test_full.py"
A, B, C = "model/test_flops.py", "model/test_patchtst.py", "launcher/test_lint.py"
FILES = (FAULT, MARKED, A, END_TO_END, B, C)
TESTS = [f"tests/{file}::test_{number}" for file in FILES for number in range(4)]


class Node:
    """A process that is told which tests to run, by their number."""

    def __init__(self, name: str) -> None:
        self.gateway, self.shutting_down = SimpleNamespace(id=name), False
        self.told: list[int] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.told += numbers

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(TESTS[number].removeprefix("tests/").split("::")[0] for number in self.told))


@pytest.fixture
def shared() -> tuple[Any, Node, Node]:
    config = SimpleNamespace(getvalue=lambda _: ["popen", "popen"], option=SimpleNamespace(loadscopereorder=False))
    scheduler = OneSweepAtATime(config)  # type: ignore[arg-type]
    nodes = Node("one"), Node("two")
    for node in nodes:
        scheduler.add_node(node)  # type: ignore[arg-type]
        scheduler.add_node_collection(node, TESTS)  # type: ignore[arg-type]
    scheduler.schedule()
    return scheduler, *nodes


def _finish(scheduler: Any, node: Node) -> None:
    """Every test that the process has been told, and those that it is told meanwhile of the same files."""
    for number in list(node.told):
        if not scheduler.assigned_work[node][scheduler._split_scope(TESTS[number])][TESTS[number]]:
            scheduler.mark_test_complete(node, number)


def test_beside_a_sweep_small_files_run(shared: tuple[Any, Node, Node]) -> None:
    scheduler, one, two = shared
    assert (one.files, two.files) == ([FAULT], [A])
    _finish(scheduler, two)
    assert two.files == [A, B]
    _finish(scheduler, one)
    assert one.files == [FAULT, MARKED]


def test_in_the_end_both_run_what_is_left_and_every_test_runs_once(shared: tuple[Any, Node, Node]) -> None:
    scheduler, one, two = shared
    for node in (two, two, two):
        _finish(scheduler, node)
    assert two.files[-1] in (MARKED, END_TO_END) and one.files == [FAULT]
    for node in (one, two, one, two):
        _finish(scheduler, node)
    assert sorted(one.told + two.told) == list(range(len(TESTS))) and scheduler.tests_finished
