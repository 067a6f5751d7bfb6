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


def run() -> int:
    """Run the command line, with our packages from the folder of this file."""
    if sys.path[:1] != [HERE]:  # Python was told not to look beside the script
        sys.path.insert(0, HERE)
    try:
        from tune.commands.main import main
    except KeyboardInterrupt:  # Ctrl-C before main() can answer it
        return 130
    except ModuleNotFoundError as missing:
        how = "run `make setup` and `. .venv/bin/activate`, then the same command again"
        print(f"error: {sys.executable} has no package '{missing.name}': {how}", file=sys.stderr)
        return 2
    return main(sys.argv[1:])


if __name__ == "__main__":
    check_python()
    sys.exit(run())
