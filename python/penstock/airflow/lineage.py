"""What OpenLineage is told: datasets, their columns, where columns come from, counts, and what was checked."""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    datasource_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)
from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.pipeline import Pipeline

_OWN = ("event_type", "event_time", "entity", "idempotency_key", "session_id", "session_start", "session_seq")


def lineage_of(kind: str, flow: Pipeline | None, report: Mapping[str, Any] | None) -> OperatorLineage:
    """What a task has read and written.

    Args:
        kind: `run`, `load`, `refresh`, `index` or `check`.
        flow: The pipeline; none where it could not be read.
        report: What came of it; none where nothing did.
    """
    if flow is None:
        return OperatorLineage()
    told = dict(report or {})
    if kind == "run":
        outputs = [_layer(flow, layer, told) for layer in flow.settings.layers]
        if told and (flow.spec()["warehouse"] or {}).get("fill") == "epoch":
            outputs += _raw(flow, told.get("run", {}).get("silver"))
        return OperatorLineage(inputs=_sources(flow), outputs=outputs)
    if kind == "load":
        rows = sum(int(told.get(count, 0)) for count in ("inserted", "updated")) if told else None
        return OperatorLineage(inputs=[_silver(flow)], outputs=_raw(flow, rows))
    if kind == "refresh":
        return _refreshed(flow, told)
    if kind == "index":
        return _indexed(flow, told)
    return OperatorLineage(inputs=[_silver(flow, _assertions(told))])


def _sources(flow: Pipeline) -> list[InputDataset]:
    source = flow.spec()["source"]
    if "kafka" in source:
        brokers = str(source["kafka"]["brokers"]).split(",")[0]
        return [InputDataset(f"kafka://{brokers}", topic) for topic in source["kafka"]["topics"]]
    return [InputDataset("file", path) for path in source["files"]["paths"]]


def _place(flow: Pipeline, layer: str) -> tuple[str, str]:
    """Namespace and name of a layer."""
    lake = str(flow.spec()["lake"]).rstrip("/")
    if "://" not in lake:
        return "file", f"{lake}/{layer}"
    url = urllib.parse.urlsplit(lake)
    return f"{url.scheme}://{url.netloc}", f"{url.path.strip('/')}/{layer}".lstrip("/")


def _columns(flow: Pipeline) -> list[tuple[str, str]]:
    from penstock.contract import Contract

    _, path = flow.file.contract()
    known = [(name, kind) for name, kind in Contract.load(path).columns if name not in _OWN]
    kinds = {"event_time": "timestamp", "session_start": "timestamp", "session_seq": "bigint"}
    return [*((name, kinds.get(name, "text")) for name in _OWN), *known]


def _schema(columns: list[tuple[str, str]]) -> schema_dataset.SchemaDatasetFacet:
    fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=str(kind)) for name, kind in columns]
    return schema_dataset.SchemaDatasetFacet(fields=fields)


def _layer(flow: Pipeline, layer: str, told: Mapping[str, Any]) -> OutputDataset:
    rows = told.get("run", {}).get({"silver": "silver", "bronze": "consumed"}[layer])
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
    facets: dict[str, Any] = {"schema": _schema(_columns(flow))} if layer == "silver" else {}
    namespace, name = _place(flow, f"{layer}/events")
    written: dict[str, Any] = {} if rows is None else {"outputStatistics": statistics}
    return OutputDataset(namespace, name, facets=facets, outputFacets=written)


def _silver(flow: Pipeline, input_facets: dict[str, Any] | None = None) -> InputDataset:
    namespace, name = _place(flow, "silver/events")
    return InputDataset(namespace, name, facets={"schema": _schema(_columns(flow))}, inputFacets=input_facets or {})


def _assertions(told: Mapping[str, Any]) -> dict[str, Any]:
    found = [
        quality.Assertion(assertion=check["name"], success=bool(check["passed"])) for check in told.get("checks", ())
    ]
    if not found:
        return {}
    return {"dataQualityAssertions": quality.DataQualityAssertionsDatasetFacet(assertions=found)}


def _raw(flow: Pipeline, rows: int | None) -> list[OutputDataset]:
    """The table that Silver's rows go into."""
    from penstock.warehouse.model import model_of

    folder = flow.file.tables
    if folder is None or not flow.spec()["warehouse"]:
        return []
    model = model_of(folder)
    columns, facets, at = _table(flow, model.with_lake_file[0])
    queries = [folder / name for name in ("silver.sql", *model.queries) if (folder / name).is_file()]
    fields = _origins(queries[0].read_text(encoding="utf-8"), flow, {name for name, _ in columns})
    facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)
    return [_written(at, facets, rows)]


def _written(at: tuple[str, str], facets: dict[str, Any], rows: int | None) -> OutputDataset:
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(*at, facets=facets, outputFacets={} if rows is None else {"outputStatistics": statistics})


def _table(flow: Pipeline, table: str) -> tuple[list[tuple[str, str]], dict[str, Any], tuple[str, str]]:
    """A table's columns, its facets, and namespace and name."""
    from penstock.warehouse import connect, warehouse_of

    target = warehouse_of(flow.spec())
    if target.postgres is not None:
        host, _, database = target.postgres.place.partition(" ")[0].rpartition("/")
        at = f"postgres://{host}", f"{database}.{target.postgres.schema_}.{table}"
    else:
        at = "file", f"{target.place}/main.{table}"
    backend = connect(target, read_only=True)
    try:
        columns = [(str(n), str(kind)) for n, kind in backend.rows(_TYPES.format(table=table))]
    finally:
        backend.close()
    source = datasource_dataset.DatasourceDatasetFacet(name=target.place, uri=at[0])
    return columns, {"schema": _schema(columns), "dataSource": source}, at


def _refreshed(flow: Pipeline, told: Mapping[str, Any]) -> OperatorLineage:
    """Raw rows to clean ones, and these to the hours."""
    outputs = []
    if clean := told.get("transactions_clean"):
        _, facets, at = _table(flow, "transactions_clean")
        outputs.append(_written(at, facets, int(clean["inserted"]) + int(clean["updated"])))
    if told.get("views"):
        outputs += [_written(at, facets, None) for _, facets, at in [_table(flow, "hourly_metrics")]]
    read = "transactions" if told.get("transactions_clean") else "transactions_clean"
    inputs = [InputDataset(*at, facets=facets) for _, facets, at in [_table(flow, read)]] if outputs else []
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _indexed(flow: Pipeline, told: Mapping[str, Any]) -> OperatorLineage:
    """A view to its documents."""
    if not told:
        return OperatorLineage()
    columns, facets, at = _table(flow, str(told["view"]))
    to = str(told["to"])
    url = urllib.parse.urlsplit(to)
    file = ("file", to.removeprefix("file:"))
    index = file if url.scheme == "file" else (f"elasticsearch://{url.netloc}", str(told["view"]))
    written = _written(index, {"schema": _schema(columns)}, int(told["indexed"]))
    return OperatorLineage(inputs=[InputDataset(*at, facets=facets)], outputs=[written])


_TYPES = (
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{table}' "
    "AND table_schema = current_schema() ORDER BY ordinal_position"
)


def _origins(sql: str, flow: Pipeline, columns: set[str]) -> dict[str, column_lineage_dataset.Fields]:
    """Each column of the table and the columns of Silver in its line of the query."""
    known = {name for name, _ in _columns(flow)} | {"_topic", "_partition", "_offset"}
    namespace, name = _place(flow, "silver/events")
    found = {}
    for line in sql.splitlines():
        text = re.sub(r"--.*|'[^']*'", "", line).strip().rstrip(",")
        words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", re.sub(r"\b[a-z]\.", "", text))
        inputs = [word for word in dict.fromkeys(words[:-1] or words) if word in known]
        if words and words[-1] in columns and inputs:
            fields = [column_lineage_dataset.InputField(namespace, name, field) for field in inputs]
            found[words[-1]] = column_lineage_dataset.Fields(inputFields=fields)
    return found
