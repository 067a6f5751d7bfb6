"""The commands that check a search's answer: it and its neighbours in pairs, one sweep for each field.

    python experiments.py --sweep full --trials 20 --dataset ETTh1 --epochs 3 --json full.json
    python benchmarks/neighbours.py full.json --repeats 5            # prints the commands; run them one after another

The answer is the baseline of each of these sweeps. A search has kept its word if no arm of them is faster by more than
1 % at an error that is not worse. The neighbours are those of tune.plan.shapes, also those that a search leaves out
because they are likely slower. `none` and the fewest heads of pruning differ in several fields: they are left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DATA = ("data.dataset", "data.context_length", "data.prediction_length", "data.feed", "data.num_workers")
LEFT_OUT = ("train.seed", "model.as_published", "pruning.as_published")


def answer_of(content: Mapping[str, Any]) -> str:
    """The arm of a result that is fastest of those that are faster and not worse; else the baseline."""
    from tune.stats.verdicts import FASTER, NOT_WORSE

    usable = {
        arm: each["ratio"]
        for arm, each in content["comparisons"].items()
        if each["verdict"] == FASTER and (each["accuracy"] or {}).get("verdict") == NOT_WORSE
    }
    return max(usable, key=lambda arm: usable[arm], default=str(content["baseline"]))


def commands(content: Mapping[str, Any], arm: str, repeats: int) -> list[str]:
    """One command for each field in which the arm has neighbours. WrongInput for an arm that the result lacks."""
    from tune.common.errors import unknown_name

    arms = {trial["arm"]: trial["params"] for trial in content["trials"] if trial.get("stage") == "final"}
    if arm not in arms:
        raise unknown_name("arm of the final", arm, arms)
    params = {name: value for name, value in arms[arm].items() if _is_given(name, value)}
    return [_command(params, name, values, repeats) for name, values in _axes(params).items()]


def _is_given(name: str, value: Any) -> bool:
    empty = value is None or value == [] or name in LEFT_OUT
    return not empty and (not name.startswith("data.") or name in DATA)


def _axes(params: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Field -> the arm's own value, then those of its neighbours that differ in this field alone."""
    from tune.config.sweeps import Arm, get_sweep
    from tune.engine import ENGINES
    from tune.plan.shapes import neighbours

    engines = tuple(Arm(label=name, changes={"train.engine": name}) for name in ENGINES)
    axes: dict[str, list[Any]] = {}
    for choices in (*get_sweep("full").space.values(), engines):
        by_label = {choice.label: choice.changes for choice in choices}
        own = next((label for label, changes in by_label.items() if changes.items() <= params.items()), None)
        for other in neighbours(choices, own) if own is not None else ():
            changed = [name for name, value in by_label[other].items() if params.get(name) != value]
            if by_label[other].keys() == by_label[own or ""].keys() and len(changed) == 1:
                axes.setdefault(changed[0], [params[changed[0]]]).append(by_label[other][changed[0]])
    return axes


def _command(params: Mapping[str, Any], axis: str, values: Sequence[Any], repeats: int) -> str:
    from tune.config.trial_config import as_settings

    fields = {name: value for name, value in params.items() if name != axis}
    if axis == "model.patch_length":  # the stride follows the length
        fields.pop("model.patch_stride", None)
    words = ["python", "experiments.py", "--sweep", "custom", "--repeats", str(repeats), *as_settings(fields).split()]
    return shlex.join([*words, "--over", f"{axis}={','.join(str(value) for value in values)}"])


def main(words: Sequence[str] | None = None) -> int:
    """Print the commands."""
    from tune.common.errors import WrongInput

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="what a full sweep wrote with --json")
    parser.add_argument("--arm", help="an arm of the final (default: the answer)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(words)
    content = json.loads(arguments.result.read_text())
    try:
        lines = commands(content, arguments.arm or answer_of(content), arguments.repeats)
    except WrongInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
