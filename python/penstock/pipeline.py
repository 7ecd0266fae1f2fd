"""A pipeline: from its source to its lake, exactly once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock._arguments import duration, size
from penstock._html import escape
from penstock.errors import SettingsError, SourceError, Stopped
from penstock.lake import layer_name
from penstock.ledger import Counts, Ledger
from penstock.progress import Progress
from penstock.settings import PipelineFile, load_file
from penstock.shards import parse_shard
from penstock.storage import Storage
from penstock.table import Table, names
from penstock.units import time_of

if TYPE_CHECKING:
    import datetime as dt
    import os
    from collections.abc import Callable, Mapping, Sequence

    from penstock._typing import EpochSink
    from penstock.audit import Audit
    from penstock.connections import Connections
    from penstock.entries import (
        BackfillReport,
        CompactReport,
        Manifest,
        ReplayReport,
        ResetReport,
        RetentionReport,
    )
    from penstock.index import IndexReport
    from penstock.inspection import Inspection
    from penstock.settings_models import Settings
    from penstock.storage import Spec
    from penstock.warehouse.refresh import RefreshReport


_PATIENCE = 5_000_000
"""For so long a broker is waited for by who only looks, in microseconds."""


class Pipeline:
    """A pipeline file, ready to run."""

    def __init__(self, file: PipelineFile) -> None:
        self.file = file

    @classmethod
    def load(
        cls,
        pipeline: str | os.PathLike[str],
        overrides: Sequence[str] | Mapping[str, Any] = (),
        *,
        base: str | os.PathLike[str] | None = None,
        storage: Storage | Mapping[str, Any] | None = None,
        connections: Connections | None = None,
    ) -> Pipeline:
        """Load a pipeline file, or a ready-made pipeline by its name.

        Args:
            pipeline: The name (`ecommerce`), a file, or a folder with a `pipeline.yaml`.
            overrides: Settings in place of the file's: `["sessions.gap=45m"]` or `{"sessions.gap": "45m"}`.
            base: Where relative paths of data begin; the file's folder unless given (the working directory for a
                ready-made pipeline).
            storage: How the lake's bucket is reached, where the file does not say: such as
                `Storage.from_airflow(connection)`.
            connections: Where Kafka is and how all else is reached, where the file does not say:
                `Connections.from_airflow(kafka=connection)`.

        Raises:
            SettingsError: There is no such pipeline, or a setting is wrong.
        """
        if hasattr(overrides, "items"):
            overrides = [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
        if storage is not None:
            from penstock.connections import Connections

            given = connections or Connections()
            connections = dataclasses.replace(given, storage=Storage.of(storage).over(given.storage))
        return cls(load_file(pipeline, list(overrides), base=base, connections=connections))

    @property
    def name(self) -> str:
        """Its name."""
        return self.file.settings.name

    @property
    def settings(self) -> Settings:
        """What stands in its file; secrets are masked."""
        return self.file.settings

    def spec(self) -> Spec:
        """The same as the engine takes it; secrets travel beside it, not in it: see `penstock.settings`."""
        return self.file.spec()

    def run(
        self,
        *,
        until_caught_up: bool = True,
        max_epochs: int | None = None,
        accept_gap: bool = False,
        void: int | None = None,
        drain: bool = False,
        shard: str | None = None,
        progress: bool | None = None,
        on_event: Callable[[dict[str, Any]], object] | None = None,
    ) -> Ledger:
        """Run it: read, judge, deduplicate, sessionise, write, commit, again and again.

        A run that was killed is simply started again: it goes on from the last commit, and nothing is lost or doubled.
        Ctrl-C ends it when the epoch in hand is finished, or gives that up when it would take more than some seconds; a
        second Ctrl-C gives it up at once.

        Args:
            until_caught_up: End when everything that was there is committed; else go on for ever.
            max_epochs: End after so many commits.
            accept_gap: Go on behind events that are gone from the source for ever (Kafka's retention), and count them
                as lost in the ledger; else that is an error.
            void: First give up this epoch, which was planned and cannot be run any more: it is committed as void, its
                files are removed, and its ranges are read again in the next. No event is lost or doubled.
            drain: Take the end of what is there now as the end of the input, whatever the source: all that is held is
                let go, sessions and windows close, and what is older comes late. With `until_caught_up` alone.
            shard: `2/4`: read the second of four parts of Kafka's partitions, with a log and a ledger of its own; the
                others run by themselves, at once or not. Needs `source.keyed_by: entity`, and windows that group by the
                entity. The number of shards is settled by the first run.
            progress: Show it; None: in a terminal or a notebook.
            on_event: Called with what happens: `{"event": "committed", …}`.

        Returns:
            The ledger: sums since the pipeline began, and this run's own; of the shard, where there is one.

        Raises:
            SourceError: The source cannot be read, or is no longer what it was.
            LakeError: The lake cannot be written.
            CheckpointError: The lake's log is damaged, or of a newer version.
            SupersededError: A newer run took over.
            LedgerError: Not every event is accounted for.
            SettingsError: A setting is wrong; `void` names an epoch that is committed, or that was never planned.
            DataError: The pipeline's transform failed.
            WarehouseError: The setting `warehouse.fill` is `epoch`, and the warehouse cannot be written.
            Stopped: It was asked to stop (a `KeyboardInterrupt` that knows how the run ended).
        """
        if drain and not until_caught_up:
            raise SettingsError(
                "drain: a run that goes on for ever has no end to drain to; run until caught up", name="drain"
            )
        spec, transform = self.spec(), self.file.transform()
        self.file.check_source()
        if shard is not None:
            spec["shard"] = parse_shard(shard)
        if transform is not None:
            spec["transform"]["code"] = transform.code
        try:
            with contextlib.ExitStack() as stack:
                shown = stack.enter_context(Progress(self.name, progress, also=on_event))
                sinks = self._sinks(spec, stack)
                found = json.loads(
                    _core.run_pipeline(
                        json.dumps(spec),
                        until_caught_up=until_caught_up,
                        max_epochs=max_epochs,
                        accept_gap=accept_gap,
                        void=void,
                        drain=drain,
                        transform=transform,
                        sinks=sinks,
                        on_event=shown.callback,
                        secret=self.file.secret,
                        source_secrets=self.file.source_secrets,
                        storage_secrets=self.file.storage.secrets,
                    )
                )
        except KeyboardInterrupt as error:
            raise Stopped("interrupted; the epoch in hand was given up, and the next run reads it again") from error
        if found["stopped"]:
            said = "interrupted; the epoch in hand was finished, and the next run goes on from there"
            raise Stopped(said, finished=True, ledger=Ledger.of(found))
        return Ledger.of(found)

    def _sinks(self, spec: Spec, stack: contextlib.ExitStack) -> list[EpochSink]:
        """The databases that a run writes its epochs into, as far as the lake's log goes; closed with the stack."""
        self.file.need("fill")
        if (spec["warehouse"] or {}).get("fill") != "epoch":
            return []
        from penstock.warehouse.sink import TableSink

        sink = TableSink(spec, self.file.tables)
        stack.callback(sink.close)
        sink.catch_up()
        return [sink]

    def refresh(
        self, warehouse: str | Mapping[str, Any] | None = None, *, full: bool = False, only: str | None = None
    ) -> RefreshReport:
        """Make what is made of raw rows in the warehouse: `transactions_clean`, and the views of the hourly metrics.

        Args:
            warehouse: Another one than that of the pipeline file: `duckdb:FILE` or the URL of a PostgreSQL.
            full: Make all rows anew, not only those that changed since the last time. The rows are the same.
            only: `transactions_clean` or `views`; both unless given.

        Raises:
            SettingsError: The pipeline has no such tables, or no warehouse.
            WarehouseError: The warehouse cannot be opened or written, or nothing was loaded yet.
        """
        from penstock.warehouse.refresh import refresh

        return refresh(self.spec(), warehouse, full=full, only=only, tables=self.file.tables)

    def audit(self, *, broker: bool = False) -> Audit:
        """Count the ledger again from the files, the log and the state, and the warehouse where one was loaded.

        Args:
            broker: Count against the source's broker as well: what was read is read there once more, as far as it still
                has it.

        Raises:
            SettingsError: The broker is wanted, and the source is files.
            SourceError: The broker cannot be asked, or is not the one that was read.
            LakeError: The lake is not there, or has no such pipeline.
            CheckpointError: The log, or a file that it names, is missing or damaged.
            WarehouseError: The warehouse cannot be opened.
        """
        from penstock.audit import Audit, warehouse_check

        found = json.loads(_core.audit(json.dumps(self.spec()), storage_secrets=self.file.storage.secrets))
        if broker:
            self.file.need("source")
            found["checks"].extend(self._broker(self.spec(), audit=True))
        warehouse = self._audit_warehouse()
        if warehouse is not None:
            found["warehouse"] = warehouse
            found["checks"].append(warehouse_check(warehouse))
        found["balanced"] = found["balanced"] and all(check["passed"] for check in found["checks"])
        return Audit.of(found)

    def _audit_warehouse(self) -> dict[str, Any] | None:
        """The warehouse against the lake; none where there is none yet."""
        spec = self.spec()
        self.file.need("warehouse")
        if not spec["warehouse"] or not self.file.tables:
            return None
        from penstock.warehouse import audit, was_loaded

        return audit(spec, tables=self.file.tables).as_dict() if was_loaded(spec) else None

    def index(
        self,
        to: str | None = None,
        *,
        warehouse: str | Mapping[str, Any] | None = None,
        since: str | dt.datetime | None = None,
        keep: str | None = None,
    ) -> IndexReport:
        """Bring the documents in Elasticsearch, or in a file, up to date with the view in the warehouse.

        It can be repeated: what is there already, as it is, is not touched, and what the view has no longer is removed.

        Args:
            to: Another place than that of the setting `index`: the address of a server, or `file:FILE`.
            warehouse: Another warehouse than that of the pipeline file.
            since: Only hours from this one on (`2024-12-17T13`); those before are left as they are.
            keep: How long a month is kept from its end, where the server has lifecycle management; `forever` for no
                end; what the settings say unless given, else 400 days.

        Returns:
            What was done. Documents that the server refused are in its `failed`; all others are in.

        Raises:
            SettingsError: Nothing says where to, or something is wrong with it.
            ElasticsearchError: The server cannot be reached or refuses all, or its index is not one of ours.
            WarehouseError: The warehouse cannot be opened, or has no such view.
        """
        from penstock.index import index

        return index(self.spec(), to, warehouse=warehouse, since=since, keep=keep)

    def inspect(self, *, epochs: int = 10, samples: int = 0, broker: bool = False) -> Inspection:
        """Look at it from outside, also while it runs: term, epochs, watermark, partitions, state, layers.

        Args:
            epochs: How many of the newest entries of the log to show.
            samples: How many dead letters of each code.
            broker: Ask the source's broker, too, what it has: the lag. One that does not answer within 5 s is no error,
                nor is a lake that was filled from files: `raw["broker_said"]` says why it is not known.

        Raises:
            LakeError: The lake is not there, or has no such pipeline.
            CheckpointError: The log, or a file that it names, is missing or damaged.
        """
        from penstock.inspection import Inspection

        spec, secrets = self.spec(), self.file.storage.secrets
        found = json.loads(_core.inspect(json.dumps(spec), epochs=epochs, samples=samples, storage_secrets=secrets))
        kafka = spec["source"].get("kafka")
        if broker and kafka and "source" in self.file.unset:
            found["broker_said"] = str(self.file.unset["source"])
        elif broker and kafka and kafka["brokers"]:
            kafka["give_up_us"] = min(kafka["give_up_us"], _PATIENCE)
            try:
                found["broker"] = self._broker(spec)
            except (SourceError, SettingsError) as error:
                found["broker_said"] = str(error)
        return Inspection(
            Counts.of(found), bool(found["balanced"]), time_of(found["watermark"]), found["planned"], found
        )

    def state(self, table: str) -> Table:
        """A table of the operators' state as the newest commit has it, e.g. `dedup/keys`.

        `inspect` names the tables. Any Arrow library takes it, DuckDB too; it is read into memory whole.

        Raises:
            SettingsError: There is no such table.
            LakeError: The lake is not there, or has no such pipeline.
            CheckpointError: The log, or the state, is missing or damaged.
        """
        secrets = self.file.storage.secrets
        return Table(_core.state_table(json.dumps(self.spec()), table, storage_secrets=secrets))

    def _broker(self, spec: dict[str, Any], *, audit: bool = False) -> list[dict[str, Any]]:
        hidden, keys = self.file.source_secrets, self.file.storage.secrets
        return list(
            json.loads(_core.broker(json.dumps(spec), audit=audit, source_secrets=hidden, storage_secrets=keys))
        )

    def replay(
        self,
        *,
        codes: Sequence[str] = (),
        event_types: Sequence[str] = (),
        start: str | dt.date | None = None,
        end: str | dt.date | None = None,
        dry_run: bool = False,
    ) -> ReplayReport:
        """Judge dead letters once more by today's contract; those that are good now go to Silver, each once.

        A replayed event takes the session that it falls into, else a new one; its `session_seq` is null and `replayed`
        is true. Closed windows stay as they are. What is still bad stays; what the watermark has not passed yet waits.

        Args:
            codes: Dead letters with one of these codes; all but `late` unless given.
            event_types: Those of these event types.
            start: Those that came then or later: a day, or a moment.
            end: Those that came before.
            dry_run: Only say what would become of them.

        Raises:
            SettingsError: A code is none, or the pipeline has no Silver.
            LakeError: The lake is not there, or an epoch is planned and not committed.
            CheckpointError: The log, or a file that it names, is missing or damaged.
        """
        from penstock import entries

        options = {
            "codes": names(codes, "codes"),
            "event_types": names(event_types, "event_types"),
            "from_us": entries.moment(start, "start"),
            "to_us": entries.moment(end, "end"),
            "dry_run": dry_run,
        }
        return entries.replay(self, options)

    def backfill(self, start: str | dt.date, end: str | dt.date, *, dry_run: bool = False) -> BackfillReport:
        """Make days of Silver anew from Bronze by today's contract, as one batch, swapped in by one commit.

        Every session that touches the days is replaced whole. What the stream still works on (events that it holds,
        sessions that are open) is left to it.

        Args:
            start: The first day.
            end: The day after the last.
            dry_run: Only say what would change.

        Raises:
            SettingsError: The days are none, or what they need has expired.
            LakeError: The lake is not there, Bronze has not all of the days, or an epoch is planned and not committed.
            CheckpointError: The log, or a file that it names, is missing or damaged.
            DataError: Today's contract reads other times or entities from the events.
        """
        from penstock import entries

        options = {"from_us": entries.day(start, "start"), "to_us": entries.day(end, "end"), "dry_run": dry_run}
        return entries.backfill(self, options)

    def compact(
        self,
        *,
        layers: Sequence[str] = (),
        min_age: str = "10m",
        target: str = "128MiB",
        dry_run: bool = False,
    ) -> CompactReport:
        """Put the small files of each partition together, row for row in the same order.

        Args:
            layers: Such as `bronze/events`; all unless given.
            min_age: Nothing younger is touched.
            target: The size of a file afterwards, about; a file that has a quarter of it is left alone.
            dry_run: Only say what would be done.

        Raises:
            LakeError: The lake is not there, or an epoch is planned and not committed.
            CheckpointError: The log, or a file that it names, is missing or damaged.
        """
        from penstock import entries

        options = {
            "layers": self._layers(layers),
            "min_age_us": duration(min_age, "min_age"),
            "target_bytes": size(target, "target"),
            "dry_run": dry_run,
        }
        return entries.compact(self, options)

    def retention(self, keep: Mapping[str, str] | None = None, *, dry_run: bool = False) -> RetentionReport:
        """Throw away the files of layers that are older than they are to be kept.

        Dead letters stay until they are settled, and Bronze until nothing of it is held any more.

        Args:
            keep: How long from the end of a partition's day: `{"bronze": "30d"}` of `bronze`, `silver`, `dead_letters`,
                `gold`; what the setting `retention` says unless given.
            dry_run: Only say what would go.

        Raises:
            SettingsError: Nothing says how long, or a name or duration is wrong.
            LakeError: The lake is not there, or an epoch is planned and not committed.
        """
        from penstock import entries

        kept = self.settings.retention.kept() if keep is None else {n: duration(d, n) for n, d in keep.items()}
        if not kept:
            raise SettingsError(
                "retention: nothing says how long a layer is kept. Write it into the pipeline file "
                "(retention: {bronze: 30d}), or give it here",
                name="retention",
            )
        return entries.retention(self, {"keep_us": kept, "dry_run": dry_run})

    def manifest(self, layers: Sequence[str] = ()) -> Manifest:
        """The data files that count as of one commit, for readers that do not know the log.

        Args:
            layers: Such as `silver/events`; all unless given.

        Raises:
            LakeError: The lake is not there, or has no such pipeline.
        """
        from penstock import entries

        return entries.manifest(self, self._layers(layers))

    def _layers(self, layers: Sequence[str]) -> list[str]:
        return [layer_name(self.settings.lake, layer) for layer in layers]

    def reset(self, *, dry_run: bool = False) -> ResetReport:
        """Remove everything that the pipeline has in its lake, for good, as if it had never run.

        For tests and demos. A run that is at work ends. The warehouse and the consumer group of Kafka stay as they are.

        Args:
            dry_run: Only say what would go.

        Raises:
            LakeError: The lake is not there, or has no such pipeline.
        """
        from penstock import entries

        return entries.reset(self, dry_run=dry_run)

    def __repr__(self) -> str:
        return f"penstock.Pipeline({self.name!r}, {str(self.file.path)!r}, lake={self.settings.lake!r})"

    def _repr_html_(self) -> str:
        source = self.settings.source
        reads = (
            ", ".join(source.files.paths) if source.files else ", ".join(source.kafka.topics if source.kafka else [])
        )
        rows = {
            "file": str(self.file.path),
            "reads": reads,
            "lake": self.settings.lake,
            "layers": ", ".join(self.settings.layers),
        }
        body = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<p><b>Pipeline {escape(self.name)}</b></p><table>{body}</table>"
