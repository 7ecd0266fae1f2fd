"""A pipeline: from its source to its lake, exactly once."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import SettingsError, Stopped
from penstock.ledger import Audit, Counts, Ledger
from penstock.progress import Progress
from penstock.settings import PipelineFile, Settings, load_file
from penstock.shards import parse_shard
from penstock.storage import Storage
from penstock.units import format_size, parse_duration, parse_size, time_of

if TYPE_CHECKING:
    import datetime as dt
    import os
    from collections.abc import Callable, Mapping, Sequence

    from penstock.entries import (
        BackfillReport,
        CompactReport,
        Manifest,
        ReplayReport,
        ResetReport,
        RetentionReport,
    )
    from penstock.storage import Spec


@dataclass(frozen=True)
class Inspection:
    """A pipeline from outside, as its newest commit has it."""

    counts: Counts
    balanced: bool
    watermark: dt.datetime | None
    planned: int | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def layers(self) -> dict[str, dict[str, int]]:
        """Files, rows and bytes of each layer."""
        return dict(self.raw["layers"])

    @property
    def partitions(self) -> list[dict[str, Any]]:
        """The source's partitions: how far each was read."""
        return list(self.raw["partitions"])

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The shards one by one, where the pipeline runs in any; all else is their sum."""
        return list(self.raw.get("shards", ()))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The newest entries of the log, newest last."""
        return list(self.raw["epochs"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.raw)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td>{size['files']:,}</td>"
            f"<td>{size['rows']:,}</td><td>{format_size(size['bytes'])}</td></tr>"
            for name, size in self.layers.items()
        )
        head = f"{self.counts.consumed:,} events in {len(self.partitions):,} partitions"
        mark = f", watermark {self.watermark:%Y-%m-%d %H:%M:%S} UTC" if self.watermark else ""
        return (
            f"<p>{head}{mark}</p><table><thead><tr><th style='text-align:left'>layer</th><th>files</th><th>rows</th>"
            f"<th>size</th></tr></thead><tbody>{body}</tbody></table>"
        )


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
    ) -> Pipeline:
        """Load a pipeline file, or a ready-made pipeline by its name.

        Args:
            pipeline: The name (`ecommerce`), a file, or a folder with a `pipeline.yaml`.
            overrides: Settings in place of the file's: `["sessions.gap=45m"]` or `{"sessions.gap": "45m"}`.
            base: Where relative paths of data begin; the file's folder unless given (the working directory for a
                ready-made pipeline).
            storage: How the lake's bucket is reached, where the file does not say: such as
                `Storage.from_airflow(connection)`.

        Raises:
            SettingsError: There is no such pipeline, or a setting is wrong.
        """
        if hasattr(overrides, "items"):
            overrides = [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
        return cls(load_file(pipeline, list(overrides), base=base, connection=Storage.of(storage)))

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
            with Progress(self.name, progress, also=on_event) as shown:
                found = json.loads(
                    _core.run_pipeline(
                        json.dumps(spec),
                        until_caught_up=until_caught_up,
                        max_epochs=max_epochs,
                        accept_gap=accept_gap,
                        void=void,
                        drain=drain,
                        transform=transform,
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

    def audit(self) -> Audit:
        """Count the ledger again from the files, the log and the state, and the warehouse where one was loaded.

        Raises:
            LakeError: The lake is not there, or has no such pipeline.
            CheckpointError: The log, or a file that it names, is missing or damaged.
            WarehouseError: The warehouse cannot be opened.
        """
        found = json.loads(_core.audit(json.dumps(self.spec()), storage_secrets=self.file.storage.secrets))
        warehouse = self._audit_warehouse()
        if warehouse is not None:
            found["warehouse"] = warehouse
            counts = f"{warehouse['silver']} rows, {warehouse['facts']} facts, {warehouse['duplicates']} kept aside"
            wrong = f"{warehouse['missing']} missing, {warehouse['surplus']} surplus, {warehouse['astray']} astray"
            check = {"name": "Silver = the warehouse", "passed": warehouse["balanced"], "detail": f"{counts}; {wrong}"}
            found["checks"].append(check)
            found["balanced"] = found["balanced"] and warehouse["balanced"]
        return Audit.of(found)

    def _audit_warehouse(self) -> dict[str, Any] | None:
        """The warehouse against the lake; none where there is none yet."""
        from pathlib import Path

        spec = self.spec()
        place = (spec.get("warehouse") or {}).get("duckdb")
        if not place or not self.file.tables or not Path(place).exists():
            return None
        from penstock.warehouse import audit

        return audit(spec).as_dict()

    def inspect(self, *, epochs: int = 10) -> Inspection:
        """Look at it from outside, also while it runs: term, epochs, watermark, partitions, state, layers.

        Args:
            epochs: How many of the newest entries of the log to show.

        Raises:
            LakeError: The lake is not there, or has no such pipeline.
        """
        secrets = self.file.storage.secrets
        found = json.loads(_core.inspect(json.dumps(self.spec()), epochs=epochs, storage_secrets=secrets))
        return Inspection(
            Counts.of(found), bool(found["balanced"]), time_of(found["watermark"]), found["planned"], found
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
            "codes": list(codes),
            "event_types": list(event_types),
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
            "layers": list(layers),
            "min_age_us": parse_duration(min_age),
            "target_bytes": parse_size(target),
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

        kept = self.settings.retention.kept() if keep is None else {n: parse_duration(d) for n, d in keep.items()}
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

        return entries.manifest(self, list(layers))

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
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<p><b>Pipeline {html.escape(self.name)}</b></p><table>{body}</table>"
