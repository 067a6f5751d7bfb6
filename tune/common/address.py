"""Store addresses without their secrets, and absolute paths of SQLite files."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit


def sqlite_uri(file: Path, scheme: str = "sqlite") -> str:
    """The address of a SQLite file, as SQLAlchemy reads it: a % before two digits is written %25, a ? is %3F."""
    escaped = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", str(file.absolute()))
    return f"{scheme}:///{escaped.replace('?', '%3F')}"


def settled_uri(tracking_uri: str) -> str:
    """The same address with an absolute SQLite path, so that it does not depend on the current directory."""
    scheme, separator, _ = tracking_uri.partition(":///")
    if not (scheme.startswith("sqlite") and separator):
        return tracking_uri
    query = tracking_uri.partition("?")[2]
    return sqlite_uri(sqlite_file(tracking_uri), scheme) + (f"?{query}" if query else "")


def sqlite_file(tracking_uri: str) -> Path:
    """The file of a `sqlite:///relative.db` or `sqlite:////absolute.db` URI, absolute."""
    return Path(unquote(tracking_uri.split(":///", 1)[-1].split("?", 1)[0])).absolute()


def redacted(address: str) -> str:
    """An address without its user, password and query, for messages and logs.

    SQLAlchemy accepts passwords with slashes, question marks and spaces. So everything before the last @ is left out,
    and the rest too if a question mark stands before it: it may belong to the password or to the query.
    """
    scheme, separator, rest = address.partition("://") if "://" in address else ("", "", address)
    if not rest.startswith("/"):  # otherwise it names a file, or a database whose host is in the query
        secret, _, rest = rest.rpartition("@")
        rest = "" if "?" in secret else rest
    return scheme + separator + rest.partition("?")[0]


def redacted_text(text: str) -> str:
    """A text without the user, password and query of any address in it. In doubt more is left out."""
    bare = re.sub(r"(?<=://)[^\s'\"?]*\?[^\s'\"]*@[^\s'\"]*", "", text)  # a password's question mark, or a query's @
    bare = re.sub(r"(?<=://)(?!/)(?:[^:/@\s]*:(?:(?!://)[^@])*@)?(?:[^\s'\"]*@)?", "", bare)
    return re.sub(r"\?[^\s'\"]*", "", bare) if "://" in text else text


def one_line(error: BaseException) -> str:
    """An error as one short line without credentials, and without the query that SQLAlchemy adds."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return redacted_text(re.split(r" ?(?:\[SQL: |\(Background on this error at)", text)[0])[:500]


def has_password(tracking_uri: str) -> bool:
    """Whether an address may hold a secret: a user, a password, or the query of a database that is not a file."""
    bare = redacted(tracking_uri)
    return bare != tracking_uri and not (tracking_uri.startswith("sqlite") and bare == tracking_uri.partition("?")[0])


def is_server(tracking_uri: str) -> bool:
    """True for an MLflow server, which keeps its own artifacts; False for a store that this process opens itself."""
    return urlsplit(tracking_uri).scheme in ("http", "https")
