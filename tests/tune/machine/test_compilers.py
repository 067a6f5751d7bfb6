"""A compiler counts as working once a file of its has been compiled and loaded, and says else what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compiler_kit import BROKEN, path_with, path_with_broken, path_without_compilers
from system_kit import skip_for_want_of

from tune.machine import compilers
from tune.machine.compilers import CPP, C, broken_compilers

ROOT = Path(__file__).resolve().parents[3]
LANGUAGES = (CPP, C)


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX", "TORCH_INDUCTOR_INSTALL_GXX"):
        monkeypatch.delenv(name, raising=False)


def test_working_compilers_are_not_named_and_leave_nothing(tmp_path: Path) -> None:
    assert broken_compilers(LANGUAGES, tmp_path / "runs" / "to be made") == {}
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_each_language_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path_without_compilers(tmp_path / "bin")))
    assert broken_compilers(LANGUAGES, tmp_path) == {
        CPP: "no g++ on PATH: apt-get install g++, or name one in CXX",
        C: "no gcc or clang on PATH: apt-get install gcc, or name one in CC",
    }


@pytest.mark.parametrize("what", BROKEN)
def test_a_program_that_is_there_and_does_not_compile_is_broken(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(path_with_broken(tmp_path / "bin", what)))
    broken = broken_compilers(LANGUAGES, tmp_path)
    assert broken.keys() == set(LANGUAGES)
    for text in broken.values():
        assert "\n" not in text
        if "python" in what.lower():
            assert "apt-get install python3-dev" in text
        elif what == "writes no library":
            assert "cannot be loaded" in text
        else:
            assert "or name one in C" in text
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    "given", ["", "nonsense", "/etc/passwd", "ccache g++", "/bin/false", "/bin/true", "/nowhere/g++"]
)
def test_a_variable_that_names_no_compiler_counts_although_there_is_one_on_path(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, given)
    broken = broken_compilers(LANGUAGES, tmp_path)
    assert broken.keys() == set(LANGUAGES)
    assert all(given in text and "or name one in C" in text for text in broken.values())


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BROKEN, "hangs", "exec sleep 60")
    folder = path_with_broken(tmp_path / "bin", "hangs")
    path_with(folder, "sleep")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(compilers, "ENDS_WITHIN_S", 0.2)
    assert "did not end within 0.2 s" in broken_compilers([CPP], tmp_path)[CPP]


def test_pytorch_needs_openssl_beside_its_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path_with(tmp_path / "bin", "g++", "gcc", "as", "ld")))
    assert "apt-get install openssl" in broken_compilers(LANGUAGES, tmp_path)[CPP]
    path_with(tmp_path / "bin", "openssl")
    assert broken_compilers(LANGUAGES, tmp_path) == {}


def test_what_is_compiled_on_a_mount_without_exec_cannot_be_loaded(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tune.machine.compilers import broken_compilers; "
        f"print(*broken_compilers(['C++', 'C'], Path({str(tmp_path)!r})).values(), sep='\\n')"
    )
    script = f'mount -t tmpfs -o noexec none "{tmp_path}" || exit 77; exec "{sys.executable}" -c "$1"'
    try:
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", script, "sh", code], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    except FileNotFoundError:
        skip_for_want_of("needs unshare: apt-get install util-linux")
    if done.returncode == 77 or "unshare" in done.stderr:
        skip_for_want_of(f"mounts nothing here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("noexec" in line and "cannot be loaded" in line for line in lines), done
