"""What docs/security.md promises of addresses, names and files. A sweep with secrets: end_to_end/test_secrets.py."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from data_pipeline.datasets import get_dataset
from data_pipeline.errors import DataError
from data_pipeline.series.store import cache_key
from tune.cluster.auth_token import check_token_file
from tune.commands.main import COMMANDS, load_command, main
from tune.common.address import one_line
from tune.common.errors import WrongInput
from tune.common.files import make_private
from tune.config.axes import lay_over
from tune.config.sweeps import get_sweep
from tune.storage.open_sweep import find_known
from tune.tracking.store import TrackingError, check_no_password, check_store
from tune.tracking.tracker import Tracker


def test_folders_that_others_can_write_are_not_believed(tmp_path: Path) -> None:
    make_private(tmp_path / "own", "verdicts")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RuntimeError, match="can be written by others, so its verdicts are not trusted: chmod 700"):
        make_private(tmp_path / "open", "verdicts")


def test_a_token_that_others_can_read_is_refused_and_rays_own_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, rays = tmp_path / "token", tmp_path / ".ray" / "auth_token"
    rays.parent.mkdir()
    for file in (named, rays):
        file.write_text("x")
        file.chmod(0o644)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    with pytest.raises(WrongInput, match=f"others can read the token; do: chmod 600 {named}"):
        check_token_file()
    named.chmod(0o600)
    check_token_file()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    check_token_file()
    assert stat.S_IMODE(rays.stat().st_mode) == 0o600


SECRET_URIS = [
    "http://ann:canary@h:5000",
    "http://canary@h",
    "ann:canary@h:5000",
    "postgresql://h/db?password=canary",
    "postgresql://h:1/db?password=x@canary",
    "postgresql:///db?host=h&password=x@canary",
    "mysql://u:canary@h/d",
    # SQLAlchemy reads each of these as a password
    *(f"postgresql+psycopg2://u:{word}@h:1/mlflow" for word in ("can/canary", "a canary", "a?canary", "a@canary/x")),
    *(f"postgresql+psycopg2://u:{word}@h:1/mlflow" for word in ("1/canary", "canary#x", ":canary", "canary://canary")),
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI") as refused:
        check_no_password(uri)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_with_the_option_refuses_a_password(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = load_command(words).parser()
    if "--tracking-uri" not in parser._option_string_actions:
        assert words in {("list",), ("gc",), ("version",), ("data", "show"), ("data", "import-pems")}
        return
    asked = [action for action in parser._actions if action.required]
    given = [word for action in asked for word in (*action.option_strings[:1], "x")]
    assert main([*words, *given, "--tracking-uri", "http://ann:canary@127.0.0.1:9"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --tracking-uri http://127.0.0.1:9: ") and said.count("\n") == 1


@pytest.mark.parametrize("uri", [*SECRET_URIS, "http://u:8/canary@h:1", "http://u:canary/x@h:1"])
def test_no_message_about_a_store_repeats_its_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_there(place: tuple[str, int], *_: object, **__: object) -> socket.socket:
        raise ConnectionRefusedError(f"no database at {place[0]}")

    monkeypatch.setattr("socket.create_connection", nothing_there)  # else names of hosts are looked up for seconds
    try:
        check_store(uri)
    except TrackingError as error:
        assert "canary" not in str(error)
    else:
        assert "?" in uri  # the host is in the query, or cannot be told from it
    if "://" in uri:
        assert "canary" not in one_line(RuntimeError(f"no driver for {uri} here, see http://docs.example/x"))


def test_a_database_is_looked_for_at_its_host_whatever_its_password_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda place, *_, **__: asked.append(place) or socket.socket())
    check_store("postgresql+psycopg2://u:pa/ss w@db.example:1/mlflow")
    assert asked == [("db.example", 1)]


@pytest.mark.parametrize(
    "uri",
    [None, "http://h:5000", "sqlite:///m.db", "sqlite:////a/m.db?timeout=5", "sqlite:////a@b/m.db", "postgresql://h/d"],
)
def test_an_address_without_a_password_is_taken(uri: str | None) -> None:
    check_no_password(uri)


NAMES = ["../../up", "/etc/passwd", "..", ".", "a/b", "a\x00b", "a\nb", "\x1b[31mred", "<script>x</script>", "a" * 300]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_id_of_a_sweep_or_trial_leaves_its_folder(tmp_path: Path, new_store: str, name: str) -> None:
    with pytest.raises(WrongInput, match="no such sweep"):
        find_known(tmp_path, name, given=f"--resume {name}")
    outbox = tmp_path / "o" / "outbox.jsonl"
    tracker = Tracker(outbox_path=outbox, tracking_uri=new_store, experiment="x", artifact_root=tmp_path.as_uri())
    try:
        for call in (
            lambda: tracker.begin_sweep(sweep_id=name, name="n", tags={}, params={}, files={}),
            lambda: tracker.plan_trial(trial_id=name, run_name="n", params={}, tags={}),
        ):
            with pytest.raises(ValueError, match="allowed are up to 200 letters"):
                call()
    finally:
        tracker.close(0.0)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_name_of_a_data_file_stays_inside_the_cache(tmp_path: Path, name: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    try:
        spec = get_dataset(f"{tmp_path}/{name}.csv")
        key = cache_key(spec, Path(f"{tmp_path}/{name}.csv"))
    except (DataError, OSError, ValueError):
        return  # refused is as good
    assert (cache / f"{key}.arrow").resolve().parent == cache.resolve()
    assert key.isprintable() and len(key) < 200


@pytest.mark.parametrize("value", ["../../x", "/a/b", "x\x1b[31m", "<script>"])
def test_the_label_of_an_arm_is_fit_for_a_folder(value: str) -> None:
    sweep = lay_over(get_sweep("custom"), {"data.timestamp_column": (value, "other")})
    for arm in sweep.arms:
        assert set(arm.label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:=-"), arm.label
