"""Rows of a view as documents: in Elasticsearch, or in a file where there is none.

What is indexed stands beside the pipeline file: `elasticsearch/VIEW.json` has the mapping, the settings, and the column
that is a document's id and its time. The documents lie in an index for each month, `VIEW-2024.12`, under the alias
`VIEW`. A run compares them with the view and writes what is new or has changed; those that the view has no longer are
removed. So it can be repeated, and whatever failed before is put right.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock._arguments import duration
from penstock.elasticsearch import Action, Elasticsearch, Failure
from penstock.errors import ElasticsearchError, SettingsError, WarehouseError
from penstock.index_file import DocumentsFile
from penstock.index_settings import KEEP, place_of
from penstock.storage import need
from penstock.units import format_duration, parse_duration, time_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.target import Target

_WARM_US = parse_duration("60d")
_HOW = (
    "set `index: {elasticsearch: URL}` or `index: {file: FILE}` in the pipeline file, "
    "or pass `--to URL` or `--to file:FILE`"
)
_LOG = logging.getLogger("penstock.index")


# --- what is indexed, and where ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Documents:
    """Which view is indexed, and how.

    Attributes:
        view: The view; also the alias, and what its indices begin with.
        id: The column that is a document's id, and its time.
        mapping: Of the documents.
        settings: Of the indices.
    """

    view: str
    id: str
    mapping: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def fields(self) -> dict[str, str]:
        """The type of each field."""
        return {name: str(kind["type"]) for name, kind in self.mapping["properties"].items()}

    def month(self, document: Mapping[str, Any]) -> str:
        """The index that a document belongs into."""
        return f"{self.view}-{str(document[self.id])[:7].replace('-', '.')}"


def documents_of(spec: Mapping[str, Any]) -> Documents:
    """What is indexed of a pipeline: `elasticsearch/VIEW.json` beside its contract, or in the ready-made one.

    Raises:
        SettingsError: There is nothing, or it is damaged.
    """
    name = str(spec["name"])
    beside = Path(str(spec.get("contract_path", ""))).parent / "elasticsearch"
    ready = Path(__file__).parent / "pipelines" / name / "elasticsearch"
    file = next((file for folder in (beside, ready) for file in sorted(folder.glob("*.json"))), None)
    if file is None:
        raise SettingsError(
            f"pipeline {name}: nothing of it is indexed. Put the mapping of a view into elasticsearch/VIEW.json beside "
            "the contract (`penstock init payments` shows how it looks)"
        )
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        found = Documents(file.stem, told["id"], told["mappings"], told.get("settings", {}))
        if found.fields.get(found.id) != "date" or not re.fullmatch(r"[a-z][a-z0-9_]*", found.view):
            raise SettingsError(f"{file}: the id must be a field of type date, and the file named as the view")
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{file}: it needs id and mappings.properties, each with a type, as JSON") from None
    return found


@dataclass(frozen=True)
class _To:
    """Where documents go."""

    url: str | None = field(default=None, repr=False)
    file: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def connect(self) -> Elasticsearch:
        assert self.url is not None
        return Elasticsearch(
            self.url, user=self.user, password=self.password, api_key=self.api_key, ca_file=self.ca_file
        )


def _target(spec: Mapping[str, Any], to: str | None) -> _To:
    """The place that is meant."""
    told, secrets = spec.get("index") or {}, dict(getattr(spec, "index_secrets", {}))
    own = _To(secrets.get("url"), None, told.get("user"), secrets.get("password"), secrets.get("api_key"))
    if to is not None:
        kind, _, rest = to.partition(":")
        if kind == "file" and rest:
            return _To(file=Path(rest))
        if kind not in ("http", "https"):  # not shown: it may hold a password
            raise SettingsError(f"index: this is neither an address nor a file; {_HOW}", name="index")
        # Who asks is said in the settings of the same server alone.
        same = own.url is not None and place_of(own.url) == place_of(to)
        return _To(to, None, own.user, own.password, own.api_key, told.get("ca_file")) if same else _To(to)
    need(spec, "index")
    if "file" in told:
        return _To(file=Path(told["file"]))
    if own.url is None:
        raise SettingsError(f"index: nothing says where the documents go; {_HOW}", name="index")
    return _To(own.url, None, own.user, own.password, own.api_key, told.get("ca_file"))


# --- the work ---------------------------------------------------------------------------------------------------------


@dataclass
class IndexReport:
    """What became of the documents.

    Attributes:
        pipeline: Its name.
        view: The view that they are made of, and the alias that they are found under.
        to: Where they are now.
        documents: How many the view has (since the given hour).
        indexed: Written: new, or not as they were.
        unchanged: There already, as they are.
        deleted: Removed: the view has them no longer.
        expired: Left out: the server would remove them at once.
        failed: Refused by the server, each with the reason; all others are in.
        retried: How often one was sent again.
        indices: The indices that they are in.
        lifecycle: How long they are kept; none without an end.
        notes: What one should know.
    """

    pipeline: str
    view: str
    to: str
    documents: int = 0
    indexed: int = 0
    unchanged: int = 0
    deleted: int = 0
    expired: int = 0
    failed: list[Failure] = field(default_factory=list)
    retried: int = 0
    indices: list[str] = field(default_factory=list)
    lifecycle: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all documents are there."""
        return not self.failed

    def as_dict(self, most: int | None = None) -> dict[str, Any]:
        """For JSON; `failed_count` says how many failed.

        Args:
            most: No more than so many of those that failed are listed.
        """
        listed = {"failed": [asdict(one) for one in self.failed[:most]], "failed_count": len(self.failed)}
        return asdict(replace(self, failed=[])) | listed | {"ok": self.ok}


def index(
    spec: Mapping[str, Any],
    to: str | None = None,
    *,
    warehouse: str | Mapping[str, Any] | Target | None = None,
    since: str | dt.datetime | None = None,
    keep: str | None = None,
) -> IndexReport:
    """Bring the documents up to date with the view in the warehouse.

    Args:
        spec: The pipeline file, read: `name`, `contract_path`, `warehouse`, `index`.
        to: Another place than that of `spec`: the address of a server, or `file:FILE`.
        warehouse: Another warehouse than that of `spec`.
        since: Only hours from this one on; those before are left as they are.
        keep: How long a month is kept from its end, where the server has lifecycle management; `forever` for no end;
            what the settings say unless given, else 400 days.

    Returns:
        What was done. Documents that the server refused are in its `failed`; all others are in.

    Raises:
        SettingsError: Nothing says where to, or something is wrong with it.
        ElasticsearchError: The server cannot be reached or refuses all, or its index is not one of ours.
        WarehouseError: The warehouse cannot be opened, or has no such view, or it is empty and documents are there.
    """
    from penstock.entries import moment
    from penstock.warehouse import connect, warehouse_of
    from penstock.warehouse.sink import WAIT

    what, target = documents_of(spec), _target(spec, to)
    start = time_of(moment(since, "since"))
    kept = keep if keep is not None else (spec.get("index") or {}).get("keep", KEEP)
    kept_us = None if kept == "forever" else duration(kept, "keep")
    place = f"file:{target.file}" if target.file else place_of(str(target.url))
    report = IndexReport(str(spec["name"]), what.view, place)

    def read() -> tuple[list[dict[str, Any]], bool]:
        backend = connect(warehouse_of(spec, warehouse), read_only=True, wait=WAIT)
        try:
            rows, there = _read(backend, what, start)
        finally:
            backend.close()
        report.documents = len(rows)
        return rows, there

    if target.file is not None:
        file = DocumentsFile(target.file, what.id, report)
        file.look(None if start is None else _value(start, "date"))
        file.bring(*read())
        return report
    with target.connect() as server:
        indices = _Indices(server, what, report, kept_us)
        # First what is there, then the view: an hour that another run has just brought in is not one that is gone.
        indices.look(start)
        indices.bring(*read())
    return report


def _read(backend: Backend, what: Documents, since: dt.datetime | None) -> tuple[list[dict[str, Any]], bool]:
    """The view's rows as documents, and whether the view has any at all."""
    columns = backend.columns(what.view)
    absent = [name for name in what.fields if name not in columns]
    if not columns:
        raise WarehouseError(
            f"warehouse {backend.place}: it has no {what.view}. Load and refresh it first (`penstock refresh`)"
        )
    if absent:
        raise WarehouseError(f"warehouse {backend.place}: {what.view} has no column {', '.join(absent)}")
    since_then = "" if since is None else f" WHERE {what.id} >= TIMESTAMP '{since.replace(tzinfo=None)}'"
    names = ", ".join(what.fields)
    rows = backend.rows(f"SELECT {names} FROM {what.view}{since_then} ORDER BY {what.id}")  # noqa: S608 - our own names
    there = bool(rows) or bool(backend.rows(f"SELECT 1 FROM {what.view} LIMIT 1"))  # noqa: S608
    kinds = what.fields
    return [{name: _value(v, kinds[name]) for name, v in zip(kinds, row, strict=True)} for row in rows], there


def _value(value: Any, kind: str) -> Any:
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.timezone.utc) if value.tzinfo else value
        return utc.replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, dt.date):
        return value.isoformat()
    if kind in ("double", "float") and isinstance(value, (Decimal, int)):
        return float(value)
    return int(value) if isinstance(value, Decimal) else value


@dataclass
class _Indices:
    """The indices of a view on a server."""

    server: Elasticsearch
    what: Documents
    report: IndexReport
    keep_us: int | None

    def look(self, since: dt.datetime | None) -> None:
        """See what is there."""
        self._found = self._look()
        self._managed = self._policy()
        start = None if since is None else _value(since, "date")
        self._there = [a for a in self._held(self._found, start) if not (self._managed and self._expired(a.index))]

    def bring(self, rows: list[dict[str, Any]], there: bool) -> None:
        """Bring what was seen up to date."""
        found, managed, held = self._found, self._managed, self._there
        wanted = self._placed(rows, managed)
        if not there and held:
            raise WarehouseError(
                f"{self.what.view} is empty in the warehouse, and there are {len(held):,} documents at "
                f"{self.report.to}: nothing was changed. Is it the right warehouse, and refreshed? If so, remove the "
                f"indices {self.what.view}-*"
            )
        self._prepare(found, sorted({index for index, _ in wanted}), managed)
        have = {(action.index, action.id): action.source for action in held}
        changes = [Action(*key, row) for key, row in wanted.items() if have.get(key) != row]
        changes += [Action(*key, None) for key in have if key not in wanted]
        done = self.server.bulk(changes)
        self.report.indexed, self.report.deleted = done.indexed, done.deleted
        self.report.failed, self.report.retried = done.failed, done.retried
        self.report.unchanged = len(wanted) - sum(change.source is not None for change in changes)
        self.report.indices = sorted({index for index, _ in wanted})

    def _placed(self, rows: list[dict[str, Any]], managed: bool) -> dict[tuple[str, str], dict[str, Any]]:
        """The documents by index and id, but for those that would be removed at once."""
        placed = {(self.what.month(row), str(row[self.what.id])): row for row in rows}
        if managed:
            wanted = {key: row for key, row in placed.items() if not self._expired(key[0])}
            self.report.expired = len(placed) - len(wanted)
            placed = wanted
        return placed

    def _expired(self, index: str) -> bool:
        assert self.keep_us is not None
        now = dt.datetime.now(dt.timezone.utc)
        # A server that counts from the making of an index removes a month that was made on its first day by then.
        since = _end(index) if self.server.version().knows_origin else _begin(index)
        return since + dt.timedelta(microseconds=self.keep_us) <= now

    def _look(self) -> dict[str, Any]:
        """The indices that there are; an error where one is in the way."""
        view, place = self.what.view, self.server.place
        if view in self.server.indices(view):
            raise ElasticsearchError(
                f"{place}: {view} is an index, and has to be an alias over one index a month. To keep what is in it "
                "under another name, and make room:\n"
                f"  POST /_reindex?wait_for_completion=true "
                f'{{"source": {{"index": "{view}"}}, "dest": {{"index": "old_{view}"}}}}\n'
                f"  DELETE /{view}\n"
                "then run this again: all that is in the warehouse comes back"
            )
        month = re.compile(rf"{re.escape(view)}-\d{{4}}\.\d\d")
        found = {n: told for n, told in self.server.indices(f"{view}-*").items() if month.fullmatch(n)}
        for name, told in found.items():
            there = told.get("mappings", {}).get("properties", {})
            for column, kind in self.what.fields.items():
                other = there.get(column, {}).get("type", "object" if column in there else kind)
                if other != kind:
                    raise ElasticsearchError(
                        f"{place}: index {name}: {column} is of type {other} there, and has to be {kind}. Remove the "
                        f"index (DELETE /{name}) and run this again: all that is in the warehouse comes back"
                    )
        return found

    def _policy(self) -> bool:
        """Put the lifecycle policy where it is not as it has to be; whether the server looks after it."""
        if self.keep_us is None:
            return False
        phases: dict[str, Any] = {"hot": {"min_age": "0ms", "actions": {"set_priority": {"priority": 100}}}}
        gone = {"warm": ["set_priority"]}
        if self.keep_us > _WARM_US:
            gone = {}
            # Nothing that would make a month read-only, as a forced merge does before Elasticsearch 8: hours come late.
            phases["warm"] = {"min_age": "60d", "actions": {"set_priority": {"priority": 50}}}
        phases["delete"] = {"min_age": f"{max(1, self.keep_us // 1_000_000)}s", "actions": {"delete": {}}}
        if not self.server.put_policy(self.what.view, phases, gone):
            kept = format_duration(self.keep_us)
            note = f"{self.server.place} has no lifecycle management: nothing is removed there after {kept}"
            self.report.notes.append(note)
            _LOG.warning("%s", note)
            return False
        self.report.lifecycle = format_duration(self.keep_us)
        return True

    def _prepare(self, found: Mapping[str, Any], months: list[str], managed: bool) -> None:
        """The template, and indices as it says."""
        view, server = self.what.view, self.server
        own = {"index.lifecycle.name": view} if managed else {}
        server.put_template(view, [f"{view}-*"], {**self.what.settings, **own}, self.what.mapping, view)
        for name, told in found.items():
            there = told.get("mappings", {}).get("properties", {})
            fresh = {n: kind for n, kind in self.what.mapping["properties"].items() if n not in there}
            if fresh:
                path = f"/{name}/_mapping{'/_doc' if server.version().has_types else ''}"
                server.send("PUT", path, {"properties": fresh})
            if view not in told.get("aliases", {}):
                server.send("POST", "/_aliases", {"actions": [{"add": {"index": name, "alias": view}}]})
            if own and told.get("settings", {}).get("index.lifecycle.name") != view:
                server.send("PUT", f"/{name}/_settings", {**own, **self._origin(name)})
        for name in months:
            if name not in found:
                server.create(name, self._origin(name) if managed else {})

    def _origin(self, index: str) -> dict[str, Any]:
        """Since when an index counts as old: since the end of its month, not since it was made."""
        if not self.server.version().knows_origin:
            return {}
        return {"index.lifecycle.origination_date": int(_end(index).timestamp() * 1000)}

    def _held(self, found: Mapping[str, Any], since: str | None) -> list[Action]:
        if not found:
            return []
        return [a for name in sorted(found) for a in self.server.documents(name, self.what.id, since).values()]


def _begin(index: str) -> dt.datetime:
    """When the month of an index begins."""
    year, month = (int(part) for part in index.rpartition("-")[2].split("."))
    return dt.datetime(year, month, 1, tzinfo=dt.timezone.utc)


def _end(index: str) -> dt.datetime:
    """When it ends."""
    begin = _begin(index)
    return begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
