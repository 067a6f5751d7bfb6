"""Optuna's proposals as trials of our plan: cells that can run, each once, also over restarts of the driver."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune.driver.finalists import objective
from tune.plan.plan import PlannedTrial, computation
from tune.plan.space import Labels, SearchPlan
from tune.storage.trial_log import TrialLog

STUDY = "search"
RANDOM_FIRST = 10  # random trials before the sampler learns; at most a third of all trials
TRIES = 30  # proposals of known cells before an unknown cell is taken at random
Start = Callable[[PlannedTrial, Labels], dict[str, Any]]  # records a trial and returns its job for a worker


class OptunaSearcher(OptunaSearch):
    """Suggests {"job": ...}: first the unfinished trials of an earlier driver, then the baseline, then new cells.

    A seeded TPE sampler over the options of the space, define-by-run. No computation runs twice: if the sampler
    proposes a known cell, it gets the known result and is asked again.

    plan: the plan of the search.
    past: the search's trials of earlier runs of the driver, by id in the order of proposal.
    logs: returns what is known of every trial now.
    """

    def __init__(
        self,
        plan: SearchPlan,
        *,
        past: Mapping[str, tuple[Labels, TrialLog]],
        logs: Callable[[], Mapping[str, TrialLog]],
        start: Start,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._plan, self._logs, self._start = plan, logs, start
        # Another seed after each restart, or the sampler would repeat its first proposals.
        seed = (plan.seed * 1_000_003 + len(past)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(RANDOM_FIRST, max(1, plan.draws // 3)))
        storage = optuna.storages.InMemoryStorage()
        study: dict[str, Any] = {"sampler": sampler, "storage": storage, "study_name": STUDY}
        self._study = optuna.create_study(**study, direction="minimize")
        super().__init__(self._define, mode="min", **study)
        self._random = random.Random(seed)
        self._proposed = 0
        self._known: dict[Any, PlannedTrial] = {}  # computation -> its trial
        self._waiting: list[tuple[PlannedTrial, Labels]] = []  # unfinished, to run first
        self._proposals: dict[str, tuple[str, PlannedTrial]] = {}  # Tune's id -> (id for Optuna, trial)
        for labels, log in past.values():
            self._recall(labels, log)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its state; ours is never read back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the outbox holds all that a new study needs."""

    @property
    def has_more(self) -> bool:
        """Whether a trial is unfinished, or an unknown cell is left."""
        return bool(self._waiting) or any(self._known_trial(labels) is None for labels in self._plan.space.every())

    def _recall(self, labels: Labels, log: TrialLog) -> None:
        trial = self._number(labels)
        if log.status is None:
            self._waiting.append((trial, labels))
            return
        params, distributions = self._as_proposed(labels)
        value = _value(trial, log)
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        past_trial = optuna.trial.create_trial(state=state, value=value, params=params, distributions=distributions)
        self._study.add_trial(past_trial)

    def _number(self, labels: Labels) -> PlannedTrial:
        self._proposed += 1
        trial = self._plan.search_trial(labels, self._proposed)
        self._known[computation(trial.config)] = trial
        return trial

    def _define(self, trial: Any) -> dict[str, Any]:
        return {"labels": list(self._plan.space.draw(trial.suggest_categorical))}

    def _as_proposed(self, labels: Labels) -> tuple[dict[str, str], dict[str, Any]]:
        """The parameters and distributions of a cell, as if the sampler had proposed it."""
        params: dict[str, str] = {}
        distributions: dict[str, Any] = {}

        def choose(name: str, options: tuple[str, ...]) -> str:
            distributions[name] = optuna.distributions.CategoricalDistribution(options)
            params[name] = next(option for option in options if option == labels[levels[name.split("[")[0]]])
            return params[name]

        levels = {dimension: level for level, dimension in enumerate(self._plan.space.dimensions)}
        self._plan.space.draw(choose)
        return params, distributions

    def suggest(self, trial_id: str) -> Any:
        """The next trial as {"job": ...}, or FINISHED when no cell is left."""
        if self._waiting:
            trial, labels = self._waiting.pop(0)
            ask_id = self._ask_for(trial_id, labels)
        else:
            proposal = self._new_cell(trial_id)
            if proposal is None:
                return Searcher.FINISHED
            ask_id, labels = proposal
            trial = self._number(labels)
        self._proposals[trial_id] = ask_id, trial
        return {"job": self._start(trial, labels)}

    def _ask_for(self, ask_id: str, labels: Labels) -> str:
        self._study.enqueue_trial(self._as_proposed(labels)[0])
        super().suggest(ask_id)
        return ask_id

    def _new_cell(self, trial_id: str) -> tuple[str, Labels] | None:
        """An unknown cell with Optuna's id of it; None if there is none left."""
        baseline = self._plan.baseline_cell
        if baseline is not None and self._known_trial(baseline) is None:
            return self._ask_for(trial_id, baseline), baseline
        for attempt in range(TRIES):
            ask_id = f"{trial_id}-{attempt}"
            labels = tuple(super().suggest(ask_id)["labels"])
            known = self._known_trial(labels)
            if known is None:
                return ask_id, labels
            self._report_result(ask_id, known)
        untried = list(self._plan.space.every())
        self._random.shuffle(untried)
        labels = next((labels for labels in untried if self._known_trial(labels) is None), ())
        return (self._ask_for(trial_id, labels), labels) if labels else None

    def _known_trial(self, labels: Labels) -> PlannedTrial | None:
        return self._known.get(computation(self._plan.search_trial(labels, 0).config))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the sampler learns from the ends of trials, ASHA from epochs."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Give the sampler the trial's result over all runs of the driver."""
        self._report_result(*self._proposals.pop(trial_id), error=error)

    def _report_result(self, ask_id: str, trial: PlannedTrial, *, error: bool = False) -> None:
        value = None if error else _value(trial, self._logs()[trial.trial_id])
        super().on_trial_complete(ask_id, None if value is None else {self.metric: value}, error=value is None)


def _value(trial: PlannedTrial, log: TrialLog) -> float | None:
    return objective(trial.config, log) if log.status in (None, "done", "stopped") else None
