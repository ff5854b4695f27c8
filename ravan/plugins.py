"""Code of a user's own by the name of its place: ``package.module:name`` or ``folder/file.py:name``."""

import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ravan.errors import SettingsError

FORMS = "package.module:name or folder/file.py:name"


def load_object(where: str) -> Any:
    """What stands under that name.

    Modules are found as ``python -m`` finds them, the working folder first; a file finds those beside it.

    Raises:
        SettingsError: no such file, module or name, or its code fails.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise SettingsError(f"{where} names no object: give {FORMS}.")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    except SettingsError:
        raise
    except Exception as error:  # whatever the user's code raises while it is imported
        raise SettingsError(f"{place} can't be imported ({describe(error)}): correct it, or give {FORMS}.") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingsError(f"{place} has no {name}: give the name of one that it has.")
        found = getattr(found, part)
    return found


def describe(error: BaseException) -> str:
    """An error of a user's code in one line: its kind and what it says first."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


class _FromSource(SourceFileLoader):
    """Compiles a file each time: what Python kept of one that was changed within the same second is out of date."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _from_package(name: str) -> ModuleType:
    _see(Path.cwd())
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SettingsError(f"{path} does not exist: give {FORMS}.")
    _see(path.resolve().parent)
    name = f"_users_{path.stem}"  # never the name of a module that others import
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, for one, look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _see(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
