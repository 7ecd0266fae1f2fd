"""The audit reads what it speaks of: nothing that was changed since it was written passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.errors import CheckpointError
from shop import LENIENT, Shop, some_events

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A lake with files of every kind: of epochs, of a replay, of a compaction."""
    shop = Shop.make(tmp_path)
    shop.put("a", some_events(200))
    shop.run()
    shop.contract(LENIENT)
    shop.pipeline().replay()
    shop.pipeline().compact(min_age="0")
    shop.assert_sound()
    return shop


@pytest.mark.parametrize("layer", ["bronze/events", "silver/events", "silver/sessions", "dead_letters", "settled"])
def test_a_byte_that_turned(layer: str, shop: Shop) -> None:
    path = next((shop.lake / layer).rglob("*.parquet"))
    whole = path.read_bytes()
    # In the middle of the data, where no footer tells.
    for at in (len(whole) // 3, 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="holds other bytes") as refused:
            shop.pipeline().audit()
        assert path.name in str(refused.value)
    path.write_bytes(whole)
    shop.assert_sound()
