"""Whether the compilers work that PyTorch's compiler and Triton call while a trial runs.

Planning-safe. They are tried, as a program that is there may lack its headers, its linker or a folder to write to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

ENDS_WITHIN_S = 60.0  # a compiler or loader that takes longer is taken for broken; they take 0.2 s
CPP, C = "C++", "C"
# What generated code includes: a file of PyTorch's compiler for a CPU, and a launcher of Triton's
_SOURCES = {
    CPP: "#include <Python.h>\n#include <cmath>\n#include <omp.h>\nint works() { return omp_in_parallel(); }\n",
    C: "#include <Python.h>\n#include <stdio.h>\nint works(void) { return 0; }\n",
}
_FLAGS = {CPP: ("-x", "c++", "-std=c++17", "-fopenmp", "-march=native"), C: ("-x", "c")}
_PACKAGES = {CPP: "apt-get install g++", C: "apt-get install gcc"}
_VARIABLES = {CPP: "CXX", C: "CC"}


def broken_compilers(languages: Iterable[str], folder: Path) -> dict[str, str]:
    """The languages of which no compiler works here: language -> what happened and what to do; working ones left out.

    A file is compiled and loaded in `folder`, or in the nearest folder above it that exists. Nothing is left there.
    """
    problems = {language: _problem(language, folder) for language in languages}
    return {language: problem for language, problem in problems.items() if problem is not None}


def _problem(language: str, folder: Path) -> str | None:
    """Why no file of `language` can be compiled and loaded; None if it can, or if there is no folder to try it in."""
    if language == CPP and os.environ.get("TORCH_INDUCTOR_INSTALL_GXX"):
        return None  # PyTorch then brings its own
    program, named = _program(language)
    how = f"{_PACKAGES[language]}, or name one in {_VARIABLES[language]}"
    if program is None:
        return f"no {named} on PATH: {how}"
    if language == CPP and shutil.which("openssl") is None:
        return "no openssl on PATH, with which PyTorch names precompiled headers: apt-get install openssl"
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".compiles-", dir=place, ignore_cleanup_errors=True)
    except OSError:
        return None  # the check of that folder says so
    with scratch as inside:
        return _tried(language, program, how, Path(inside), place)


def _program(language: str) -> tuple[str | None, str]:
    """The compiler that is called, as those who call it choose it, or None; and what was looked for."""
    variable, names = _VARIABLES[language], ("g++",) if language == CPP else ("gcc", "clang")
    given = os.environ.get(variable)
    if given is not None:
        return shutil.which(given), f"{variable}={given}"
    found = next(filter(None, map(shutil.which, names)), None)
    return found, " or ".join(names)


def _tried(language: str, program: str, how: str, scratch: Path, place: Path) -> str | None:
    source, library = scratch / "source", scratch / "works.so"
    source.write_text(_SOURCES[language])
    headers = sysconfig.get_path("include", "posix_prefix")  # Debian's default scheme names another folder
    options = (*_FLAGS[language], "-shared", "-fPIC", f"-I{headers}", "-o", str(library), str(source))
    if problem := _run(program, *options):
        if "Python.h" in problem:
            how = f"apt-get install python3-dev, or a Python that has its headers in {headers}"
        return f"{program} does not compile ({problem}): {how}"
    if not library.exists():
        return f"{program} writes nothing, so it is no compiler: {how}"
    if problem := _run(sys.executable, "-I", "-S", "-c", f"import ctypes; ctypes.CDLL({str(library)!r})"):
        return f"what is compiled in {place} cannot be loaded ({problem}): if it is mounted noexec, move --storage-path"
    return None


def _run(*command: str) -> str | None:
    """The words of a program that fails, None if it does not."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ENDS_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {ENDS_WITHIN_S:g} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return (said or f"exit code {done.returncode}")[:200]
