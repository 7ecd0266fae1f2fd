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
        kind: `run`, `load` or `check`.
        flow: The pipeline; none where it could not be read.
        report: What came of it; none where nothing did.
    """
    if flow is None:
        return OperatorLineage()
    told = dict(report or {})
    if kind == "run":
        outputs = [_layer(flow, layer, told) for layer in flow.settings.layers]
        return OperatorLineage(inputs=_sources(flow), outputs=outputs)
    if kind == "load":
        return OperatorLineage(inputs=[_silver(flow)], outputs=_facts(flow, told))
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


def _facts(flow: Pipeline, told: Mapping[str, Any]) -> list[OutputDataset]:
    spec = flow.spec()
    folder = flow.file.tables
    if folder is None or not spec["warehouse"]:
        return []
    from penstock.warehouse import connect, warehouse_of

    target = warehouse_of(spec)
    star = (folder / "silver.sql").is_file()
    table = "fact_events" if star else flow.settings.name
    if target.postgres is not None:
        host, _, database = target.postgres.place.partition(" ")[0].rpartition("/")
        namespace, name = f"postgres://{host}", f"{database}.{target.postgres.schema_}.{table}"
    else:
        namespace, name = "file", f"{target.place}/main.{table}"
    backend = connect(target, read_only=True)
    try:
        columns = [(str(n), str(kind)) for n, kind in backend.rows(_TYPES.format(table=table))]
    finally:
        backend.close()
    facets: dict[str, Any] = {
        "schema": _schema(columns),
        "dataSource": datasource_dataset.DatasourceDatasetFacet(name=target.place, uri=namespace),
    }
    if star:
        fields = _origins((folder / "silver.sql").read_text(encoding="utf-8"), flow, {n for n, _ in columns})
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields)
    rows = sum(int(told.get(count, 0)) for count in ("inserted", "updated"))
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return [
        OutputDataset(namespace, name, facets=facets, outputFacets={"outputStatistics": statistics} if told else {})
    ]


_TYPES = (
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{table}' "
    "AND table_schema = current_schema() ORDER BY ordinal_position"
)


def _origins(sql: str, flow: Pipeline, columns: set[str]) -> dict[str, column_lineage_dataset.Fields]:
    """Each column of the table and the columns of Silver in its line of `silver.sql`."""
    known = {name for name, _ in _columns(flow)} | {"_topic", "_partition", "_offset"}
    namespace, name = _place(flow, "silver/events")
    found = {}
    for line in sql.splitlines():
        text = re.sub(r"--.*|'[^']*'", "", line).strip().rstrip(",")
        words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text)
        inputs = [word for word in dict.fromkeys(words[:-1] or words) if word in known]
        if words and words[-1] in columns and inputs:
            fields = [column_lineage_dataset.InputField(namespace, name, field) for field in inputs]
            found[words[-1]] = column_lineage_dataset.Fields(inputFields=fields)
    return found
