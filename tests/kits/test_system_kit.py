"""A test that lacks a program is skipped with the reason, except where every program must be there."""

from __future__ import annotations

import pytest
import system_kit


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_kit, "PACKAGES", {"no-such-program": ("its-package", "/nowhere/*")})
    monkeypatch.delenv("REQUIRE_SYSTEM", raising=False)


def test_a_missing_program_skips_and_names_its_package() -> None:
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program: apt-get install its-package"):
        system_kit.system_program("no-such-program")


def test_a_missing_program_fails_where_all_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_SYSTEM", "1")
    with pytest.raises(pytest.fail.Exception, match="needs no-such-program"):
        system_kit.system_program("no-such-program")


def test_a_program_off_the_path_is_found_in_its_newest_place(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("versions")
    for version in ("15", "17"):
        (folder / version).mkdir()
        (folder / version / "no-such-program").touch()
    monkeypatch.setitem(system_kit.PACKAGES, "no-such-program", ("its-package", f"{folder}/*/no-such-program"))
    assert system_kit.system_program("no-such-program") == str(folder / "17" / "no-such-program")
