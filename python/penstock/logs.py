"""Logs: one line an epoch, and whatever goes wrong on the way, through Python's `logging`.

Everything stands below the logger `penstock`: `penstock.run` for the run itself, `penstock.engine.…` for what the
engine's own modules and libraries say. Airflow and others that configure `logging` find it there; the command line sets
up a handler of its own with [`to_stderr`][penstock.logs.to_stderr].
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Any, Literal

from penstock import _core

LogFormat = Literal["text", "json"]

_RUN = logging.getLogger("penstock.run")
_EXTRA = "penstock"


class JsonFormatter(logging.Formatter):
    """A line of JSON: `time` (UTC), `level`, `logger`, `message`, and what is known beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _utc(record.created).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, _EXTRA, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: time (UTC), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = f"{_utc(record.created):%Y-%m-%d %H:%M:%S}"
        text = f"{when} {record.levelname.lower():7} {record.name.removeprefix('penstock.')}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc)


def to_stderr(style: LogFormat, *, level: int = logging.INFO) -> logging.Handler:
    """Write everything below the logger `penstock` to standard error; a second call replaces the first's handler.

    Args:
        style: Lines for people, or JSON lines.
        level: The lowest level that is written.

    Returns:
        The handler, so that it can be removed again.
    """
    logger = logging.getLogger("penstock")
    for old in [h for h in logger.handlers if isinstance(h, _Stderr)]:
        logger.removeHandler(old)
    handler = _Stderr(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logger.addHandler(handler)
    logger.setLevel(level)
    # Else handlers of the root logger would write every line a second time.
    logger.propagate = False
    _core.log_level(level)
    return handler


class _Stderr(logging.StreamHandler[Any]):
    """Ours: told from handlers of others."""


def log_event(pipeline: str, event: dict[str, Any]) -> None:
    """Log what the engine tells: an epoch a line, and what an operator wants to know between them."""
    kind = str(event.get("event"))
    if kind == "committed":
        _log_commit(pipeline, event)
    elif kind == "started":
        how = f", finishing epoch {event['epoch']}" if event["recovering"] else ""
        _say(logging.INFO, pipeline, f"term {event['term']} began before epoch {event['epoch']}{how}", event)
    elif kind == "changed":
        _log_change(pipeline, event)
    elif kind == "unread":
        where = f"{event['topic']} from byte {event['from']}"
        _say(logging.WARNING, pipeline, f"left unread, a last line without an end: {where}", event)
    elif kind == "conflict":
        what = f"another run had put {event['what']} {event['epoch']} before; going on from there"
        _say(logging.WARNING, pipeline, what, event)
    elif kind == "gap":
        where = f"{event['topic']}[{event['partition']}] {event['from']}..{event['to']}"
        _say(logging.WARNING, pipeline, f"lost before they were read, as accepted: {where}", event)
    elif kind == "warning":
        _say(logging.WARNING, pipeline, str(event.get("message", "")), event)


def _log_change(pipeline: str, event: dict[str, Any]) -> None:
    verdict = (event["change"].get("contract") or {}).get("verdict")
    text = f"contract or settings have changed since the last epoch: from epoch {event['epoch']} on the new ones count"
    if verdict == "incompatible":
        text += "; readers of what is there may not take what comes now (`penstock contract diff` says why)"
    _say(logging.WARNING if verdict == "incompatible" else logging.INFO, pipeline, text, event)


def _log_commit(pipeline: str, event: dict[str, Any]) -> None:
    counts, seconds = event["counts"], event["seconds"]
    parts = [f"{counts['consumed']:,} events"]
    parts += [
        f"{counts[name]:,} {name}" for name in ("silver", "pending", "rejected", "duplicate", "late") if counts[name]
    ]
    total = seconds[-1]
    rate = f", {counts['consumed'] / total:,.0f} events/s" if total > 0 else ""
    text = f"epoch {event['epoch']} committed: {', '.join(parts)}; {event['files']} files, {total:.2f} s{rate}"
    known = {name: value for name, value in event.items() if name not in ("event", "counts", "seconds")}
    known |= counts | {"seconds": dict(zip(("read", "files", "state", "total"), seconds, strict=True))}
    _say(logging.INFO, pipeline, text, known)


def _say(level: int, pipeline: str, text: str, known: dict[str, Any]) -> None:
    extra = {"pipeline": pipeline} | {name: value for name, value in known.items() if name != "message"}
    _RUN.log(level, "%s: %s", pipeline, text, extra={_EXTRA: extra})
