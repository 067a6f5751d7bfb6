"""Writes results where the user asks for them: checked before anything runs, written at the end, all or nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.common.errors import WrongInput
from tune.common.files import write_atomically

# Marks a JSON file as ours, which a later --json may replace; the number is the version of what it holds.
MARK, FORMAT = "format", "patchtst-sweeps/1"


def check_json_target(target: str | None) -> None:
    """Raises WrongInput unless --json names a new file, or an earlier result, in a folder that can be written."""
    if target not in (None, "-"):
        check_file_target("--json", str(target))
        _check_replaceable(str(target))


def _check_replaceable(target: str) -> None:
    """Raises WrongInput for a file that --json has not written: data, a store, a sweep's own record."""
    try:
        with open(target, "rb") as file:
            begins = file.read(1)
            content = json.loads(begins + file.read()) if begins == b"{" else None
    except FileNotFoundError:
        return
    except OSError as error:
        raise WrongInput(f"--json {target}: {error.strerror}; name another file") from None
    except ValueError:  # no JSON, or no text
        content = None
    if begins and not (isinstance(content, dict) and _is_ours(content)):
        raise WrongInput(f"--json {target}: it exists and --json did not write it; name another file, or remove it")


def _is_ours(content: Mapping[str, Any]) -> bool:
    """Whether --json has written this, now or in a version that did not mark its files."""
    if MARK in content:
        return str(content[MARK]).startswith(FORMAT.partition("/")[0] + "/")
    keys, trials = content.keys(), content.get("trials")
    if keys in ({"jobs"}, {"sweeps"}, {"ready", "checks"}):
        return True
    if {"before", "after", "arms"} <= keys or {"attention", "engines", "feeds"} <= keys:
        return True
    has_trials = isinstance(trials, list) and bool(trials) and all("trial_id" in trial for trial in trials)
    own_record = "state" in keys  # a sweep's own, which also lists its trials
    return has_trials and (keys == {"sweep", "trials"} or "sweep_id" in keys and not own_record)


def check_html_target(target: str | None, json_target: str | None) -> None:
    """Raises WrongInput unless --html names a new file or an HTML page, and not the file of --json."""
    if target is None:
        return
    if target == "-":
        raise WrongInput("--html -: name a file; stdout is for the table")
    check_file_target("--html", target)
    if json_target not in (None, "-") and os.path.realpath(str(json_target)) == os.path.realpath(target):
        raise WrongInput(f"--html {target} and --json {json_target}: the same file; name two")
    try:
        with open(target, "rb") as file:
            begins = file.read(15).lower()
    except FileNotFoundError:
        return
    except OSError as error:
        raise WrongInput(f"--html {target}: {error.strerror}; name another file") from None
    if begins and not begins.startswith((b"<!doctype html", b"<html")):
        raise WrongInput(f"--html {target}: it exists and is no HTML page; name another file, or remove it")


CSV_BEGINS = "dataset,horizon,"  # how a table begins


def check_csv_target(target: str | None, *others: str | None) -> None:
    """Raises WrongInput unless --csv names a new file or an earlier table, and none of the other options' files."""
    if target is None:
        return
    if target == "-":
        raise WrongInput("--csv -: name a file; stdout is for the report")
    check_file_target("--csv", target)
    if os.path.realpath(target) in {os.path.realpath(other) for other in others if other not in (None, "-")}:
        raise WrongInput(f"--csv {target}: another option writes the same file; name two")
    try:
        with open(target, errors="replace") as file:
            begins = file.read(len(CSV_BEGINS))
    except FileNotFoundError:
        return
    except OSError as error:
        raise WrongInput(f"--csv {target}: {error.strerror}; name another file") from None
    if begins not in ("", CSV_BEGINS):
        raise WrongInput(f"--csv {target}: it exists and --csv did not write it; name another file, or remove it")


def write_csv(target: str, content: str) -> None:
    """Write a table to the file that --csv names."""
    try:
        write_atomically(Path(target), content)
    except OSError as error:
        raise WrongInput(f"--csv {target}: {error.strerror}; use `report SWEEP_ID --csv FILE`") from None


def check_out_target(target: str | None) -> None:
    """Raises WrongInput unless --out names a folder that can be written, or a new folder inside one."""
    if target is None:
        return
    folder = target if os.path.isdir(target) else os.path.dirname(target.rstrip("/")) or "."
    if not target.strip() or target == "-" or os.path.exists(target) and not os.path.isdir(target):
        problem = "not a folder"
    elif not os.path.isdir(folder):
        problem = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not writable"
    else:
        return
    raise WrongInput(f"--out {target}: {problem}; name a folder, there or new, where you may write")


def check_file_target(option: str, target: str) -> None:
    """Raises WrongInput unless `target` names a file, new or not, in a folder that can be written."""
    folder = os.path.dirname(target) or "."
    if not os.path.basename(target) or os.path.exists(target) and not os.path.isfile(target):
        problem = "not a file"
    elif not os.path.isdir(folder):
        problem = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not writable"
    else:
        return
    raise WrongInput(f"{option} {target}: {problem}; name a file in a folder that exists and is writable")


def write_json(target: str | None, content: dict[str, Any]) -> None:
    """Write strict JSON, marked as ours, to a file, to stdout for "-", nowhere for None."""
    if target is None:
        return
    text = json.dumps({MARK: FORMAT, **_strict(content)}, indent=1, allow_nan=False)
    if target == "-":
        print(text)
        return
    _check_replaceable(target)  # once more: another program may have written there meanwhile
    try:
        write_atomically(Path(target), text + "\n")
    except OSError as error:
        raise WrongInput(f"--json {target}: {error.strerror}; use `report SWEEP_ID --json FILE`") from None


def write_page(target: str, page: str) -> None:
    """Write an HTML page to the file that --html names."""
    try:
        write_atomically(Path(target), page)
    except OSError as error:
        raise WrongInput(f"--html {target}: {error.strerror}") from None


def write_folder(target: str, files: Mapping[str, str | bytes | None]) -> None:
    """Write files into the folder that --out names. files: path in it -> content; None removes the file."""
    try:
        for name, content in files.items():
            path = Path(target) / name
            path.parent.mkdir(exist_ok=True, parents=True)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, content)
    except OSError as error:
        raise WrongInput(f"--out {target}: {error.strerror}") from None


def _strict(content: Any) -> Any:
    """`content` with None for every number that JSON cannot write: NaN and the infinities."""
    if isinstance(content, dict):
        return {name: _strict(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
