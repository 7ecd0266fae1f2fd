"""Files as a source: compressed, growing, shuffled, shrunken, cut off."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import crash
from penstock import Pipeline, _core
from shop import CONTRACT, PIPELINE

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = 3_000


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Events in the order that a stream has them."""
    path = tmp_path_factory.mktemp("lines") / "in.jsonl"
    _core.generate("ecommerce", json.dumps({"total": EVENTS, "seed": 17, "bad_rate": 0.02}), str(path))
    return path.read_bytes().splitlines(keepends=True)


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


def run(pipeline: crash.Pipeline) -> dict[str, Any]:
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["balanced"]
    return result


def counts(result: dict[str, Any]) -> dict[str, Any]:
    return {k: result[k] for k in ("consumed", "silver", "pending", "rejected", "duplicate", "late", "sessions")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> dict[str, Any]:
    """What one plain file gives."""
    folder = tmp_path_factory.mktemp("plain")
    path = folder / "in.jsonl"
    path.write_bytes(b"".join(lines))
    result = counts(run(crash.make(folder / "p", [path])))
    assert result["consumed"] == len(lines)
    assert result["late"] == 0
    assert result["pending"] == 0
    return result


@pytest.mark.parametrize("form", ["gzip", "gzip in members", "zstd", "zstd in frames", "named otherwise"])
def test_compressed_files_give_the_same(form: str, tmp_path: Path, lines: list[bytes], plain: dict[str, Any]) -> None:
    half = len(lines) // 2
    whole, parts = b"".join(lines), [b"".join(lines[:half]), b"".join(lines[half:])]
    data = {
        "gzip": lambda: gzip.compress(whole),
        "gzip in members": lambda: b"".join(map(gzip.compress, parts)),
        "zstd": lambda: zstd(whole),
        "zstd in frames": lambda: b"".join(map(zstd, parts)),
        "named otherwise": lambda: gzip.compress(whole),
    }[form]()
    path = tmp_path / ("in.txt" if form == "named otherwise" else "in.jsonl." + form[:2])
    path.write_bytes(data)
    assert counts(run(crash.make(tmp_path / "p", [path]))) == plain


@pytest.mark.parametrize("seed", range(3))
def test_neither_names_nor_shuffling_make_events_late(
    seed: int, tmp_path: Path, lines: list[bytes], plain: dict[str, Any]
) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(1, len(lines)), 9))
    stretches = [lines[a:b] for a, b in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    names = [f"{n}.jsonl" for n in range(len(stretches))]
    chance.shuffle(names)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, stretch in zip(names, stretches, strict=True):
        (folder / name).write_bytes(b"".join(stretch))
    assert counts(run(crash.make(tmp_path / "p", [folder / "*.jsonl"], epoch_events=500))) == plain


def test_a_file_that_grows(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    pipeline = crash.make(tmp_path / "p", [path])
    seen = 0
    for part in (lines[:1_000], lines[1_000:1_001], [], lines[1_001:]):
        with path.open("ab") as out:
            out.write(b"".join(part))
        result = run(pipeline)
        seen += len(part)
        assert result["consumed"] == seen
        assert result["run"]["consumed"] == len(part)
    pipeline.ledger()


def test_a_last_line_without_an_end(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(lines[:10]) + lines[10].rstrip(b"\n"))
    assert run(crash.make(tmp_path / "whole", [path]))["consumed"] == 11, "a whole value is taken"
    cut = lines[10][:50]
    path.write_bytes(b"".join(lines[:10]) + cut)
    pipeline = crash.make(tmp_path / "cut", [path])
    result = run(pipeline)
    assert result["consumed"] == 10
    (unread,) = result["unread"]
    assert unread["topic"].endswith("in.jsonl")
    assert unread["bytes"] == 50
    with path.open("ab") as out:
        out.write(lines[10][50:])
    result = run(pipeline)
    assert result["consumed"] == 11
    assert result["unread"] == []


def test_blank_lines_are_no_events(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n\r\n" + b"\n\n".join(line.rstrip(b"\n") + b"\r" for line in lines[:20]) + b"\n   \n")
    result = run(crash.make(tmp_path / "p", [path]))
    assert result["consumed"] == 20


def failure(pipeline: crash.Pipeline) -> str:
    failed = pipeline.run()
    assert failed.returncode == 3, failed.stdout
    assert "Traceback" not in failed.stderr
    return failed.stderr


def test_a_file_that_shrank_or_changed(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(lines[:100]))
    pipeline = crash.make(tmp_path / "p", [path])
    run(pipeline)
    path.write_bytes(b"".join(lines[:50]))
    message = failure(pipeline)
    assert "SourceError" in message
    assert "in.jsonl" in message
    path.write_bytes(b"".join(lines[1:150]))
    message = failure(pipeline)
    assert "SourceError" in message
    assert "in.jsonl" in message
    path.write_bytes(b"".join(lines[:150]))
    assert run(pipeline)["consumed"] == 150


@pytest.mark.parametrize("form", ["cut off", "corrupt"])
def test_a_damaged_compressed_file(form: str, tmp_path: Path, lines: list[bytes]) -> None:
    data = bytearray(gzip.compress(b"".join(lines)))
    if form == "cut off":
        data = data[: len(data) // 2]
    else:
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(64)
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(data)
    message = failure(crash.make(tmp_path / "p", [path]))
    assert "SourceError" in message
    assert "in.jsonl.gz" in message


def test_a_cut_file_stops_the_others_until_it_is_whole_or_gone(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines[:1_000]))
    cut, whole = tmp_path / "b.jsonl.gz", gzip.compress(b"".join(lines[1_000:]))
    cut.write_bytes(whole[: len(whole) // 2])
    pipeline = crash.make(tmp_path / "p", [tmp_path / "a.jsonl", tmp_path / "*.gz"], epoch_events=500)
    for _ in range(2):
        message = failure(pipeline)
        for part in (
            "b.jsonl.gz",
            "the file is cut off",
            "move it here when it is whole",
            "take it out of source.files.paths",
        ):
            assert part in message, message
    before = pipeline.ledger()["consumed"]
    cut.write_bytes(whole)
    assert run(pipeline)["consumed"] == len(lines) > before
    # Another, of which nothing can be read, and which is moved away again.
    (tmp_path / "c.jsonl.gz").write_bytes(whole[:20])
    assert "c.jsonl.gz" in failure(pipeline)
    (tmp_path / "c.jsonl.gz").unlink()
    assert run(pipeline)["consumed"] == len(lines)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    message = failure(crash.make(tmp_path / "p", [tmp_path / "missing.jsonl"]))
    assert "SourceError" in message
    assert "missing.jsonl" in message


def test_a_line_of_many_megabytes(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "in.jsonl"
    huge = b'{"event_type": "page_view", "x": "' + b"y" * (40 << 20) + b'"}\n'
    path.write_bytes(lines[0] + huge + lines[1])
    pipeline = crash.make(tmp_path / "p", [path])
    result = run(pipeline)
    assert result["consumed"] == 3
    assert result["rejected_by_code"]["too_large"] == 1
    import pyarrow.dataset as ds

    bronze = ds.dataset(pipeline.lake / "bronze/events", partitioning="hive").to_table().to_pylist()
    (row,) = [r for r in bronze if r["value_sha256"] is not None]
    assert row["value_length"] == len(huge) - 1
    assert len(row["value"]) == 1 << 20
    assert zlib.crc32(row["value"]) == zlib.crc32(huge[: 1 << 20])


def test_a_pattern_that_matches_nothing_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "contract.yaml").write_text(CONTRACT.replace("MINIMUM", "0"))
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.replace("EVENTS", "50").replace("in/*", "inn/*"))
    said: list[dict[str, Any]] = []
    ledger = Pipeline.load(tmp_path / "pipeline.yaml").run(until_caught_up=True, progress=False, on_event=said.append)
    assert ledger.consumed == 0
    [warning] = [event for event in said if event["event"] == "warning"]
    assert (warning["code"], warning["place"]) == ("no_files", "inn/*.jsonl")
