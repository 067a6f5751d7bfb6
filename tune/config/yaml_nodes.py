"""A YAML text as a tree of what is written: scalars as texts, with the line of each.

What a scalar means is decided by the field that it is for (tune.config.values), not by YAML 1.1, which reads `no` as
false, 010 as 8 and 1:30 as 90. References, tags and merge keys are refused: a sweep needs none, and they can hide what
a file says. PyYAML's parser gives events without recursion, so depth and size are bounded before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from tune.common.errors import WrongInput, shortened

DEEPEST = 8  # levels of lists and mappings; a sweep needs 4
MOST_VALUES = 50_000  # keys and values; a sweep has at most 10,000 arms


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value or key as it is written."""

    text: str
    quoted: bool  # in quotes, or a block of text: never null
    line: int  # from 1


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list."""

    items: list[Node]
    line: int


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A mapping. No key is there twice."""

    pairs: dict[str, Node]
    line: int  # where it begins
    lines: dict[str, int] = field(default_factory=dict)  # of each key


Node = Scalar | Items | Pairs


class _Events(Reader, Scanner, Parser):
    """PyYAML's parser, in which a tab may follow a key and indent lines inside brackets, as in YAML 1.2 and JSON."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()


@dataclass
class _Open:
    """A list or mapping whose end is not read yet."""

    node: Items | Pairs
    key: Scalar | None = None  # of a mapping: the key whose value comes next


def parse_yaml(text: str) -> Node | None:
    """The document in a text; None if it holds nothing. Raises WrongInput in one line, which begins with the line."""
    _check_letters(text)
    try:
        return _tree(_events(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _fault(1 if mark is None else mark.line + 1, _in_words(error)) from None
    except (ValueError, OverflowError) as error:  # PyYAML's, for an impossible escape or version
        if isinstance(error, WrongInput):
            raise
        raise WrongInput(f"not YAML that can be read ({error})") from None


def _fault(line: int, message: str) -> WrongInput:
    return WrongInput(f"line {line}: {message}")


def _check_letters(text: str) -> None:
    if wrong := Reader.NON_PRINTABLE.search(text):
        line = len(re.findall(r"\r\n|\r|\n", text[: wrong.start()])) + 1
        raise _fault(line, f"a control character, {ascii(wrong.group())}; this is not a YAML text: remove it")


def _events(text: str) -> Iterator[yaml.Event]:
    parser = _Events(text)
    while parser.check_event():
        yield parser.get_event()


def _tree(events: Iterator[yaml.Event]) -> Node | None:
    root: Node | None = None
    opened: list[_Open] = []
    values = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise _fault(line, "a second document begins; a file holds one sweep: write two files")
        if isinstance(event, yaml.CollectionEndEvent):
            opened.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        values += 1
        if values > MOST_VALUES:
            raise _fault(line, f"more than {MOST_VALUES:,} keys and values; that is not the configuration of a sweep")
        node = _node(event, line)
        if opened:
            _attach(opened[-1], node)
        else:
            root = node
        if not isinstance(node, Scalar):
            opened.append(_Open(node))
            if len(opened) > DEEPEST:
                raise _fault(line, f"more than {DEEPEST} levels of lists and mappings; a sweep needs 4")
    return None if isinstance(root, Scalar) and not root.quoted and root.text in ("", "~", "null") else root


def _node(event: yaml.NodeEvent, line: int) -> Node:
    if isinstance(event, yaml.AliasEvent):
        raise _fault(line, f"'*{shortened(event.anchor)}' refers to another value; write the value itself")
    if event.tag is not None:
        raise _fault(line, f"the tag {shortened(event.tag)} is not read; leave it out, and put a text in quotes")
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(text=_joined(event.value), quoted=event.style is not None, line=line)
    if isinstance(event, yaml.SequenceStartEvent):
        return Items(items=[], line=line)
    return Pairs(pairs={}, line=line)


def _joined(text: str) -> str:
    """JSON writes a letter beyond U+FFFF as two escapes, which are one letter."""
    return re.sub(
        "[\ud800-\udbff][\udc00-\udfff]", lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text
    )


def _attach(parent: _Open, node: Node) -> None:
    if isinstance(parent.node, Items):
        parent.node.items.append(node)
    elif parent.key is not None:
        parent.node.pairs[parent.key.text] = node
        parent.key = None
    elif not isinstance(node, Scalar):
        raise _fault(node.line, "a list or mapping stands where a key has to be; write `key: value`")
    elif node.text == "<<" and not node.quoted:
        raise _fault(node.line, "'<<' takes over another mapping; write the fields themselves")
    elif node.text in parent.node.pairs:
        raise _fault(node.line, f"'{shortened(node.text)}' is given twice; leave one out")
    else:
        parent.key = node
        parent.node.lines[node.text] = node.line


def _in_words(error: yaml.YAMLError) -> str:
    """What PyYAML found wrong, and what to do."""
    problem = str(getattr(error, "problem", None) or error)
    for found, words in _PROBLEMS.items():
        if found in problem:
            return words
    return f"not YAML: {shortened(problem, 200)}; write `key: value` lines"


_PROBLEMS = {
    r"found character '\t' that cannot start any token": "a tab stands where the line begins; indent with spaces",
    "mapping values are not allowed here": "a `: ` where none can be; indent the fields of one key alike, and put a "
    "value that holds `: ` in quotes",
    "could not find expected ':'": "no `key: value`; write a colon and a space between a key and its value",
    "expected <block end>": "the indentation does not fit the lines above; indent the fields of one key alike",
    "expected alphabetic or numeric character": "'*' and '&' have a meaning in YAML; put the value in quotes",
    "found unexpected end of stream": "a text in quotes has no end; close the quotes",
    "but got '<stream end>'": "a bracket has no end; close it",
    "that cannot start any token": "a value begins with a letter that has a meaning in YAML; put it in quotes",
}
