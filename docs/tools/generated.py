"""What the site shows of the code itself: every command with its options, every field, every name.

Pages hold a line `<!-- generated: NAME -->`; a build puts the text of GENERATED[NAME] there, so no copy
grows old.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Iterator

from data_pipeline.options import DataOptions
from tune.commands.listing import registries
from tune.commands.main import COMMANDS, load_command
from tune.config.trial_config import FIELDS, GROUPS, SEED_STUDY_ONLY

TITLES = {"positional arguments": "", "options": ""}  # argparse's own groups, shown without a title


def commands() -> str:
    """Every command: what it does, its options, its examples."""
    return "\n\n".join(_command(words) for words in sorted(COMMANDS))


def _command(words: tuple[str, ...]) -> str:
    parser = load_command(words).parser()
    name = " ".join(words) or "a sweep (no command)"
    parts = [f"## {name}", parser.description or "", f"`{_usage(parser)}`"]
    for group in sorted(parser._action_groups, key=lambda each: each.title == "options"):  # the usual ones last
        shown = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if shown:
            title = TITLES.get(group.title or "", group.title or "")
            rows = ([f"`{_invocation(action)}`", _help(action)] for action in shown)
            parts += [f"**{title}**"] * bool(title) + [table(["option", "what it does"], rows)]
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    return "\n\n".join(part for part in parts if part)


def _usage(parser: argparse.ArgumentParser) -> str:
    places = [_invocation(action) for action in parser._actions if not action.option_strings]
    return " ".join(["python", parser.prog, *places, "[options]"])


def _invocation(action: argparse.Action) -> str:
    """--name VALUE, -n; or the name of a place"""
    value = action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("?", "*") else value
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action) if action.help else ""


def fields() -> str:
    """Every field of a trial, by group: the values that it takes, its default, what it is."""
    described, meant = registries()["fields"], meanings()
    parts = []
    for group, config in GROUPS.items():
        names = [name for name in FIELDS if name.startswith(f"{group}.") and name not in SEED_STUDY_ONLY]
        rows = ([f"`{name}`", *_values_and_default(described[name]), meant.get(name, "")] for name in names)
        what = (inspect.getdoc(config) or "").partition("\n")[0]
        parts += [f"### {group}", what, table(["field", "values", "if not given", "what it is"], rows)]
    return "\n\n".join(parts)


def _values_and_default(text: str) -> tuple[str, str]:
    """whole number from 1; 10 if not given"""
    values, _, default = text.rpartition("; ")
    return values, default.removesuffix(" if not given")


def meanings() -> dict[str, str]:
    """Field -> what stands beside it in the code; an option of the data has a docstring there."""
    found = {
        f"{group}.{name}": text
        for group, config in GROUPS.items()
        for name, text in re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(config), re.MULTILINE)
    }
    found = {
        name: re.sub(r"^(?:none \| static \| )?a name in [\w.]+[,;]? ?(?:or )?", "", text) or "one of the names below"
        for name, text in found.items()
    }
    options = re.findall(r'^    (\w+): .*\n    """(.*)"""$', inspect.getsource(DataOptions), re.MULTILINE)
    return found | {f"data.{name}": text for name, text in options}


def names() -> str:
    """Everything that a command line can name, but fields."""
    kinds = {kind: members for kind, members in registries().items() if kind != "fields"}
    parts = []
    for kind, members in kinds.items():
        parts += [f"### {kind}", table(["name", "what it is"], ([f"`{name}`", what] for name, what in members.items()))]
    return "\n\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; cells are made safe."""
    return "\n".join(_table_lines(list(head), rows))


def _table_lines(head: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line([_safe(cell) for cell in row]) for row in rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(cell: str) -> str:
    cell = " ".join(cell.split()).replace("|", "\\|")
    return cell if cell.startswith("`") else cell.replace("<", "&lt;").replace("*", "\\*")


GENERATED: dict[str, Callable[[], str]] = {"commands": commands, "fields": fields, "names": names}
PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def fill(text: str) -> str:
    """`text` with the generated parts in their places. Raises KeyError for a name that is not in GENERATED."""
    return PLACE.sub(lambda match: GENERATED[match[1]](), text)
