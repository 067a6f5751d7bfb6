"""The program: `python experiments.py --help` lists everything. The commands are in tune/commands.

This file and nothing else must run in any Python 3, to say which one is needed.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHONS = ((3, 11), (3, 12))


def check_python() -> None:
    """End the process with one line if this Python is another than the pinned packages are made for."""
    if sys.version_info[:2] in PYTHONS:
        return
    needed = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    given = f"{sys.version_info[0]}.{sys.version_info[1]}"
    how = "with one of these do: rm -rf .venv && make setup PYTHON=python3.11"
    print(f"error: this needs Python {needed}, and {sys.executable} is {given}; {how}", file=sys.stderr)
    sys.exit(2)


def leave_out_the_current_folder() -> None:
    """Import nothing from the current folder: neither for `python -m`, nor for a relative or empty PYTHONPATH entry."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the script's folder, or for `python -m` the current one
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    relative = {os.path.abspath(entry) for entry in given if not os.path.isabs(entry)}
    relative -= {os.path.abspath(entry) for entry in given if os.path.isabs(entry)}
    sys.path[:] = [HERE] + [entry for entry in sys.path if entry and entry not in relative]


def leave_on_signals() -> None:
    """End at once, until the command line takes them over. One that is ignored, as SIGHUP by nohup, stays ignored."""
    import signal

    words = sys.argv[1:]
    runs = words and (words[0][0:1] == "-" or words[0] == "train") and "--plan" not in words
    hint = "; the same command again goes on from here" if runs else ""

    def leave(number, frame):
        try:
            os.write(2, ("interrupted" + names[number] + hint + "\n").encode())
        finally:
            os._exit(128 + number)

    names = {
        signal.SIGINT: "",
        signal.SIGTERM: " by SIGTERM",
        signal.SIGHUP: " by SIGHUP",
        signal.SIGUSR1: " by SIGUSR1",
    }
    for number in names:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def run() -> int:
    """Run the command line, with our packages from the folder of this file."""
    try:
        from tune.commands.main import program
    except ModuleNotFoundError as missing:
        how = "run `make setup` and `. .venv/bin/activate`, then the same command again"
        print(f"error: {sys.executable} has no package '{missing.name}': {how}", file=sys.stderr)
        return 2
    return program(sys.argv[1:])


if __name__ == "__main__":
    leave_out_the_current_folder()  # before anything else is imported: Python has os and sys in itself
    leave_on_signals()
    check_python()
    sys.exit(run())
