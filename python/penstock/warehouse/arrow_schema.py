"""What a stream of Arrow data says of its columns: read from the C structure, where pyarrow may not be installed."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock._typing import ArrowStreamExportable


class _Schema(ctypes.Structure):
    """The head of `ArrowSchema`, as the Arrow C data interface lays it out."""


# Afterwards: it points to itself.
_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
]


def _pointer(capsule: object) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, b"arrow_schema"))


def _metadata(place: int | None) -> dict[bytes, bytes]:
    """Pairs of texts, each after its length."""
    if not place:
        return {}

    def number(at: int) -> int:
        return int(struct.unpack("=i", ctypes.string_at(at, 4))[0])

    texts: list[bytes] = []
    at = place + 4
    for _ in range(2 * number(place)):
        length = number(at)
        texts.append(ctypes.string_at(at + 4, length))
        at += 4 + length
    return dict(zip(texts[::2], texts[1::2], strict=True))


def metadata(data: ArrowStreamExportable) -> list[dict[bytes, bytes]]:
    """The metadata of each column; nothing is taken from the stream."""
    capsule = data.__arrow_c_schema__()  # type: ignore[attr-defined]
    whole = _Schema.from_address(_pointer(capsule))
    return [_metadata(whole.children[i].contents.metadata) for i in range(whole.n_children)]
