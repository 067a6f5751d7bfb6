"""Our attention in transformers, by its name "patch", from the moment that transformers has a place for it.

transformers takes attention functions in `transformers.modeling_utils`, which loads torch. If the program has that
module already, our function is registered at once; else as soon as it is imported. Nothing is imported for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PLACE = "transformers.modeling_utils"


def register_when_imported() -> None:
    """Register our attention now or when `PLACE` is imported. Calling it again changes nothing."""
    if PLACE in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `PLACE` as Python does, with a loader that registers our attention at the end. It serves once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PLACE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    importlib.import_module("model.attention").BACKENDS["patch"].register()
