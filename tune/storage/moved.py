"""Where a sweep, its MLflow store and its data are now: each may be moved, copied, renamed or mounted elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune.common.address import redacted, settled_uri, sqlite_file
from tune.common.errors import WrongInput
from tune.storage.sweep_dir import SweepDir

EARLIER_STORES = "earlier_stores"  # in sweep.json: addresses of stores that had the sweep before, the latest first


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command asks for, to be compared with sweeps whose storage, store or data file may have moved."""

    key: str
    asked: str = ""
    """Identity of what the command asks for, whatever the device."""
    tracking_uri: str = ""
    key_of: Callable[[str, Mapping[str, str]], str | None] = lambda store, paths: None
    """The key that the command would have with another store and other paths of its data files."""
    holds: Callable[[str], bool] = lambda sweep_id: False
    """Whether the command's store has the sweep of this id."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """The data files of the command: `dataset`, and `split` if it names files."""

    def plans(self, sweep: SweepDir) -> bool:
        """Whether the sweep has the command's plan and data, wherever its store and its data file are."""
        content = sweep.read()
        stores = [content.get("tracking_uri"), *content.get(EARLIER_STORES, [])]
        return content["key"] == self.key or any(
            content["key"] == self.key_of(store, data_paths(content)) for store in stores if store is not None
        )

    def fits(self, sweep: SweepDir) -> bool:
        """Whether the sweep has the command's plan, data and store."""
        return self.plans(sweep) and ("tracking_uri" not in sweep.read() or self._has_its_store(sweep))

    def _has_its_store(self, sweep: SweepDir) -> bool:
        recorded, given = sweep.read()["tracking_uri"], redacted(settled_uri(self.tracking_uri))
        if given in (recorded, own_store(sweep)):
            return True
        if not (_is_file(recorded) and _is_file(given)):
            return False
        new = sqlite_file(given)
        return new.exists() and (_same(sqlite_file(recorded), new) or self.holds(sweep.sweep_id))

    def move(self, sweep: SweepDir) -> str | None:
        """Record where the sweep, its store and its data are now. A line that says so; None if nothing has moved.

        A store that is not the sweep's gets all its records; the one that had them becomes an earlier store. Raises
        WrongInput for a copy whose original still exists, if both would write into one store.
        """
        content, storage = sweep.read(), sweep.path.parent.absolute()
        now = {"storage": str(storage), "tracking_uri": redacted(settled_uri(self.tracking_uri)), "key": self.key}
        before: dict[str, Any] = {name: content.get(name) for name in now}
        if before == now:
            return None
        self._check_alone(sweep, content)
        earlier = [] if self.fits(sweep) else [own_store(sweep)]
        earlier += [uri for uri in content.get(EARLIER_STORES, []) if uri != now["tracking_uri"]]
        sweep.update(**now, paths=dict(self.paths), **({EARLIER_STORES: earlier} if earlier else {}))
        if before["storage"] is None and before["key"] == self.key:  # of an earlier version, and still in its place
            return None
        old: dict[str, Any] = {**data_paths(content), "storage": before["storage"], "store": before["tracking_uri"]}
        new = {**self.paths, "storage": now["storage"], "store": now["tracking_uri"]}
        changes = [
            f"its {name} {old[name]} is now {new[name]}"
            for name in new
            if old.get(name) is not None and not _same(_path(old[name]), _path(new[name]))
        ]
        return f"{sweep.sweep_id} has moved: {'; '.join(changes)}" if changes else None

    def _check_alone(self, sweep: SweepDir, content: Mapping[str, Any]) -> None:
        store, storage = redacted(settled_uri(self.tracking_uri)), content.get("storage")
        if content.get("tracking_uri") != store or storage is None:
            return
        original = Path(storage) / sweep.sweep_id
        if (original / "sweep.json").exists() and not _same(original, sweep.path):
            raise WrongInput(
                f"{sweep.path} is a copy of {original}, and both would write into {store}: remove one of "
                "them, or use --fresh to start anew"
            )


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one, or name one file: a folder may be reached through a link or another mount."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _path(text: str) -> Path:
    return sqlite_file(text) if _is_file(text) else Path(text)


def data_paths(content: Mapping[str, Any]) -> Mapping[str, str]:
    """The data set and split of a sweep.json, which are files if the command's are."""
    if "paths" in content:
        return content["paths"]
    params = (content.get("trials") or [{}])[0].get("params", {})
    return {name: path for name in ("dataset", "split") if isinstance(path := params.get(f"data.{name}"), str)}


def own_store(sweep: SweepDir, content: Mapping[str, Any] | None = None) -> str:
    """The address of the sweep's MLflow store. A SQLite file that lies now where it lay relative to the storage is it.

    If neither that file nor the recorded one exists, the recorded address. `content`: of sweep.json, if it was read.
    """
    content, storage = content or sweep.read(), sweep.path.parent.absolute()
    recorded = str(content["tracking_uri"])
    if not _is_file(recorded):
        return recorded
    file, before = sqlite_file(recorded), content.get("storage")
    if before is not None:
        moved = Path(os.path.normpath(storage / os.path.relpath(file, before)))
    else:  # a sweep of an earlier version: the usual place
        moved = file if file.exists() else storage.parent / file.name
    return recorded.replace(str(file), str(moved)) if moved.exists() else recorded


def store_name(tracking_uri: str, folder: Path) -> str:
    """A name of a store for the sweep in `folder`. A SQLite file in its project keeps the name if the project moves."""
    if not _is_file(tracking_uri) or not sqlite_file(tracking_uri).is_relative_to(
        project := folder.absolute().parents[1]
    ):
        return tracking_uri
    return f"beside:{sqlite_file(tracking_uri).relative_to(project)}"


def _is_file(tracking_uri: str) -> bool:
    return tracking_uri.startswith("sqlite") and ":///" in tracking_uri
