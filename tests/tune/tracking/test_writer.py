"""The tags of an MLflow run from its creation, also if the driver dies or the store refuses one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tune.tracking.writer import MlflowWriter

PLAN = {
    "kind": "plan", "sweep_id": "s", "trial_id": "t", "run_name": "t", "time_ms": 1, "params": {},
    "tags": {"arm": "fast", "seed": "1", "status": "planned", "reason": ""},
}  # fmt: skip
BEGIN = {
    "kind": "begin_sweep", "sweep_id": "s", "name": "s", "time_ms": 1, "params": {}, "files": {},
    "tags": {"baseline": "none", "device": "cpu"},
}  # fmt: skip


class FakeRunIndex:
    """A RunIndex whose store records only how runs were created, and refuses the tags in `refused`."""

    def __init__(self, *, dies: bool = False, refused: frozenset[str] = frozenset()) -> None:
        self.dies, self.refused = dies, refused
        self.created: list[dict[str, str]] = []
        self.client = SimpleNamespace(log_batch=self._log_batch, log_text=lambda *_: None)
        self.experiment_id = "1"

    def find(self, sweep_id: str, trial_id: str) -> str:
        return "parent"

    def tag_experiment(self, tags: dict[str, str]) -> None:
        pass

    def set_status(self, *_: Any) -> None:
        pass

    def find_or_create(self, sweep_id: str, trial_id: str, *, tags: dict[str, str], **_: Any) -> str:
        self._check(tags)
        self.created.append(tags)
        if self.dies:
            raise SystemExit("killed")
        return "run"

    def _log_batch(self, run_id: str, *, tags: Any, **_: Any) -> None:
        self._check({tag.key for tag in tags})

    def _check(self, keys: Any) -> None:
        from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

        if self.refused & set(keys):
            raise MlflowException("refused", error_code=INVALID_PARAMETER_VALUE)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.parametrize("record", [PLAN, BEGIN], ids=["trial", "sweep"])
def test_a_run_has_all_its_tags_from_its_creation_even_if_the_driver_dies_then(record: dict[str, Any]) -> None:
    run_index = FakeRunIndex(dies=True)
    with pytest.raises(SystemExit):
        MlflowWriter(run_index).apply(record)  # type: ignore[arg-type]
    assert record["tags"].items() <= run_index.created[0].items()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_tag_that_mlflow_refuses_costs_a_run_only_that_tag() -> None:
    run_index = FakeRunIndex(refused=frozenset({"arm"}))
    writer = MlflowWriter(run_index)  # type: ignore[arg-type]
    writer.apply(PLAN)
    assert run_index.created == [{"role": "trial", "mlflow.parentRunId": "parent"}]
    assert [rejection.record["tags"] for rejection in writer.rejections] == [{"arm": "fast"}]
