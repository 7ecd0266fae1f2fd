"""Arguments of the public functions, brought to what the engine takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from penstock.errors import SettingsError
from penstock.units import parse_duration, parse_size

if TYPE_CHECKING:
    import datetime as dt


@overload
def duration(value: None, name: str) -> None: ...
@overload
def duration(value: str | dt.timedelta, name: str) -> int: ...
@overload
def duration(value: str | dt.timedelta | None, name: str) -> int | None: ...
def duration(value: str | dt.timedelta | None, name: str) -> int | None:
    """Microseconds; None stays None.

    Raises:
        SettingsError: It is no duration.
    """
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}", name=name) from None


def size(value: str | int, name: str) -> int:
    """Bytes.

    Raises:
        SettingsError: It is no size.
    """
    try:
        return parse_size(value)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}", name=name) from None
