"""The users' own logic: `transform: module:function` in the pipeline file, found, loaded and called.

The function takes the valid rows of one tick as a `penstock.Table` and gives rows back: any Arrow table (a
`pyarrow.Table`, a `polars.DataFrame`, a DuckDB relation). It keeps every row in its order, leaves the columns of the
roles as they are, and may change and add others; those that it adds are declared in the pipeline file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import DataError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from penstock import _core
    from penstock._typing import ArrowLike

_NAME = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
_DECIMAL = r"^decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)$"
KINDS = ("text", "integer", "number", "boolean", "timestamp")


def check_name(name: str) -> str:
    """`module:function`, or a `ValueError` that says so."""
    if not re.match(_NAME, name):
        raise ValueError(f"{name!r} names no function; write it as module:function")
    return name


def column_kind(text: str) -> str | dict[str, list[int]]:
    """The engine's form of a column type: `text`, `integer`, `number`, `boolean`, `timestamp`, `decimal(12, 2)`."""
    found = re.match(_DECIMAL, text.strip())
    if found:
        return {"decimal": [int(found[1]), int(found[2])]}
    if text.strip() in KINDS:
        return text.strip()
    raise ValueError(f"{text!r} is no column type; there are {', '.join(KINDS)} and decimal(12, 2)")


class Transform:
    """A function of the user's, ready to be called by the engine.

    Args:
        name: `module:function`.
        folder: Where the pipeline file lies: its modules are found too, before others.

    Raises:
        SettingsError: There is no such module or function, or the module cannot be imported.
    """

    def __init__(self, name: str, folder: Path) -> None:
        module_name, _, attribute = name.partition(":")
        module = _load(module_name, folder, name)
        function = getattr(module, attribute, None)
        if not callable(function):
            what = "is no function" if hasattr(module, attribute) else "is not there"
            raise SettingsError(f"transform: {name}: {attribute} {what} in {module.__file__}", name="transform")
        self.name = name
        self.function: Callable[[Any], ArrowLike] = function
        self.file = Path(module.__file__) if module.__file__ else None

    @property
    def code(self) -> str | None:
        """What tells the module's code from a later one's."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()[:16] if self.file else None

    def __call__(self, rows: _core.Table) -> ArrowLike:
        """The user's rows for the engine's.

        Raises:
            DataError: The function raised, or gave no Arrow table.
        """
        from penstock.table import Table

        try:
            made = self.function(Table(rows))
        except Exception as error:
            # The place in the user's own code, not in ours.
            frames = traceback.extract_tb(error.__traceback__)[1:]
            own = [f for f in frames if self.file and Path(f.filename) == self.file] or frames
            where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
            raise DataError(f"raised {type(error).__name__}: {error}{where}") from error
        if hasattr(made, "__arrow_c_stream__") or hasattr(made, "__arrow_c_array__"):
            return made
        raise DataError(f"gave a {type(made).__name__}, which is no Arrow table")


def _load(module: str, folder: Path, name: str) -> ModuleType:
    """The module: one beside the pipeline file comes first, and is read again when it belongs to another pipeline."""
    beside = folder.joinpath(*module.split(".")).with_suffix(".py")
    try:
        if beside.is_file():
            known = sys.modules.get(module)
            if known is not None and getattr(known, "__file__", None) == str(beside):
                return importlib.reload(known)
            spec = importlib.util.spec_from_file_location(module, beside)
            if spec is None or spec.loader is None:
                raise ImportError(f"{beside} cannot be read as a module")
            loaded = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(folder))
            sys.modules[module] = loaded
            try:
                spec.loader.exec_module(loaded)
            except BaseException:
                del sys.modules[module]
                raise
            finally:
                sys.path.remove(str(folder))
            return loaded
        return importlib.import_module(module)
    except Exception as error:
        raise SettingsError(
            f"transform: {name}: the module cannot be imported: {type(error).__name__}: {error}. It is looked for "
            f"beside the pipeline file ({folder}) and where Python finds modules",
            name="transform",
        ) from error
