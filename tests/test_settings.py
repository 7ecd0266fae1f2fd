"""The pipeline file: every key, `${ENV}`, overrides, and mistakes named with file, line and the nearest right name."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import penstock
from penstock import mistakes
from penstock.postgres import has_password
from penstock.settings import load_file
from penstock.settings_models import Settings
from penstock.units import format_duration, parse_duration, parse_size
from penstock.warehouse import warehouse_of

CONTRACT = """\
name: c
roles: {event_type: /t, event_time: /at, idempotency_key: /id, entity: /u}
events: {'*': {v1: {type: object}}}
"""
LEAST = """\
name: shop
contract: contract.yaml
source:
  files: {paths: ["in/*.jsonl"]}
lake: ./lake
"""
EVERYTHING = """\
name: shop
contract: contract.yaml
source:
  files: {paths: ["in/*.jsonl", /data/x.gz], bounded: false}
  keyed_by: entity
lake: /data/lake
layers: [silver]
watermark: {lateness: 1h30m, idle_timeout: 45s, max_future_skew: 250ms}
deduplicate: {horizon: 7d}
sessions: {gap: 20m, max_duration: 12h}
windows:
  - {name: sums, size: 1m, slide: 30s, by: [store_id], from: [sale], mode: append,
     aggregates: {total: sum(amount), n: count()}}
epoch: {max_events: 1000, max_bytes: 64MiB, max_wait: 5s, tick: 50ms}
transform: {function: logic:enrich, columns: {cents: integer, price: "decimal(12, 2)"}}
durability: process
memory: 2GiB
limits: {max_bytes: 2MiB, max_depth: 32, assert_formats: false}
warehouse: {duckdb: w.duckdb}
pii: {secret: s3cret}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "contract.yaml").write_text(CONTRACT)
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def refused(path: Path, *overrides: str) -> penstock.SettingsError:
    with pytest.raises(penstock.SettingsError) as caught:
        load_file(path, overrides)
    return caught.value


def test_every_key_reaches_the_engine(tmp_path: Path) -> None:
    file = load_file(write(tmp_path, EVERYTHING))
    assert file.spec() == {
        "name": "shop",
        "contract_text": CONTRACT,
        "contract_path": str(tmp_path / "contract.yaml"),
        "source": {"files": {"paths": ["in/*.jsonl", "/data/x.gz"], "bounded": False, "base_dir": str(tmp_path)}},
        "keyed_by": "entity",
        "lake": "/data/lake",
        "storage": {},
        "layers": ["silver"],
        "watermark": {"lateness_us": 5_400_000_000, "idle_timeout_us": 45_000_000, "max_future_skew_us": 250_000},
        "deduplicate": {"horizon_us": 604_800_000_000},
        "sessions": {"gap_us": 1_200_000_000, "max_duration_us": 43_200_000_000},
        "windows": [
            {
                "name": "sums",
                "size_us": 60_000_000,
                "slide_us": 30_000_000,
                "by": ["store_id"],
                "from": ["sale"],
                "mode": "append",
                "to": [],
                "aggregates": [["total", "sum(amount)"], ["n", "count()"]],
            }
        ],
        "epoch": {"max_events": 1000, "max_bytes": 64 << 20, "max_wait_us": 5_000_000, "tick_us": 50_000},
        "transform": {
            "function": "logic:enrich",
            "columns": [["cents", "integer"], ["price", {"decimal": [12, 2]}]],
        },
        "durability": "process",
        "memory_bytes": 2 << 30,
        "max_event_bytes": 2 << 20,
        "max_event_depth": 32,
        "assert_formats": False,
        "warehouse": {"duckdb": str(tmp_path / "w.duckdb")},
        "index": None,
    }
    assert file.secret == b"s3cret"


def test_defaults(tmp_path: Path) -> None:
    spec = load_file(write(tmp_path, LEAST)).spec()
    assert spec["lake"] == str(tmp_path / "lake")
    assert spec["layers"] == ["bronze", "silver"]
    assert spec["watermark"] == {
        "lateness_us": 600_000_000,
        "idle_timeout_us": 30_000_000,
        "max_future_skew_us": 300_000_000,
    }
    assert spec["deduplicate"] == {"horizon_us": 86_400_000_000}
    assert spec["sessions"] is None
    assert spec["windows"] == []
    assert spec["epoch"] == {
        "max_events": 250_000,
        "max_bytes": 256 << 20,
        "max_wait_us": 30_000_000,
        "tick_us": 100_000,
    }
    assert (spec["durability"], spec["memory_bytes"], spec["warehouse"]) == ("disk", 1 << 30, None)
    assert spec["source"]["files"]["bounded"] is True


def test_what_changes_a_default_changes_its_own(tmp_path: Path) -> None:
    """Lists and mappings are values of the classes, not factories: the signature of `list` is slow to find out."""
    one, other = (load_file(write(tmp_path, LEAST)).settings for _ in range(2))
    assert one.windows is not other.windows
    assert one.layers is not other.layers
    models = {Settings} | {mistakes.model_in(field.annotation) for field in Settings.model_fields.values()}
    fields = [field for model in models if model for field in model.model_fields.values()]
    assert not {field.default_factory for field in fields} & {list, dict}


def test_the_reference_names_every_key_and_default() -> None:
    page, *sections = (Path(__file__).parents[1] / "docs/reference/pipeline-file.md").read_text().split("\n## ")
    documented = dict(re.findall(r"^\| `([a-z_.]+)` \| ?([^|]*)\|", page, flags=re.MULTILINE))
    [without_effect] = [section for section in sections if section.startswith("Known, and without effect")]
    keys = {".".join(map(str, loc)): default for loc, default in defaults(Settings)}
    left_out = {key for key in keys if key.startswith("windows.")}
    groups = {key for key in keys if any(other.startswith(f"{key}.") for other in keys)} - {"windows"}
    named = {key for row in without_effect.splitlines()[4:] for key in re.findall(r"`([a-z_.]+)`", row)} & set(keys)
    assert not set(documented) & named
    assert set(documented) | (named - left_out) == set(keys) - left_out - groups
    for key, text in documented.items():
        default, shown = keys[key], text.strip().strip("`")
        if isinstance(default, bool):
            assert shown == str(default).lower(), key
        elif isinstance(default, int):
            readers = (int, parse_duration, parse_size)
            assert default in [found for reader in readers if (found := attempt(reader, shown)) is not None], key
        elif isinstance(default, list):
            assert shown in ("none", f"[{', '.join(default)}]"), key


def defaults(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, field in model.model_fields.items():
        loc = (*above, field.alias or name)
        yield loc, field.get_default(call_default_factory=True)
        below = mistakes.model_in(field.annotation)
        if below is not None:
            yield from defaults(below, loc)


def attempt(reader: Callable[[str], int], text: str) -> int | None:
    try:
        return reader(text)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (LEAST + "sesions: {gap: 30m}\n", 6, "sesions: there is no such setting; did you mean 'sessions'?"),
        (LEAST + "sessions:\n  gpa: 30m\n", 7, "sessions.gpa: there is no such setting; did you mean 'sessions.gap'?"),
        (LEAST + "gap: 30m\n", 6, "gap: there is no such setting here; did you mean 'sessions.gap'?"),
        (LEAST + "zzz: 1\n", 6, "there are: contract, deduplicate"),
        (LEAST + "sessions: {gap: 30}\n", 6, "sessions.gap: 30 has no unit; write a duration as"),
        (LEAST + "sessions: {gap: -3m}\n", 6, "sessions.gap: '-3m' is no duration"),
        (LEAST + "sessions: {gap: 0s}\n", 6, "sessions.gap: it must be more than nothing"),
        (LEAST + "memory: lots\n", 6, "memory: 'lots' is no size"),
        (LEAST + "durability: dsik\n", 6, "durability: 'dsik': must be 'disk' or 'process'; did you mean 'disk'?"),
        (LEAST + "layers: [bronze, slver]\n", 6, "did you mean 'silver'?"),
        (LEAST + "layers: []\n", 6, "layers: must not be empty"),
        (LEAST + "epoch: {max_events: 0}\n", 6, "epoch.max_events"),
        (LEAST + "windows:\n  - {name: w, size: 1m, agregates: {}}\n", 7, "did you mean 'windows.0.aggregates'?"),
        (
            LEAST.replace("  files:", "  flies:"),
            4,
            "source.flies: there is no such setting; did you mean 'source.files'?",
        ),
        (LEAST.replace("lake: ./lake\n", ""), 1, "lake: is missing"),
        (LEAST.replace("name: shop", "name: ../shop"), 1, "name: '../shop': use up to 64 letters"),
        (LEAST + "name: other\n", 6, "name: stands here twice"),
        (LEAST + "sessions: [", 6, "this is no YAML"),
        (LEAST + "sessions: 30m\n", 6, "sessions: must be a mapping"),
        (LEAST + "warehouse: {}\n", 6, "name one warehouse: duckdb or postgres"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, text)
    error = refused(path)
    assert said in str(error)
    assert error.line == line, str(error)
    assert str(error).startswith(f"{path}:{line}: ")


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    error = refused(write(tmp_path, LEAST + "sesions: {}\ndurability: never\n"))
    assert len(str(error).splitlines()) == 2


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE", "/somewhere")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    text = (
        LEAST.replace("./lake", "${LAKE}/x$$y") + "sessions: {gap: '${EMPTY:-45m}'}\nepoch: {max_events: '${N:-7}'}\n"
    )
    file = load_file(write(tmp_path, text))
    assert file.settings.lake == "/somewhere/x$y"
    assert file.settings.sessions
    assert file.settings.sessions.gap == 45 * 60_000_000
    assert file.settings.epoch.max_events == 7
    error = refused(write(tmp_path, LEAST + "durability: ${NOWHERE}\n"))
    assert "the environment variable NOWHERE is not set" in str(error)
    assert (error.name, error.line) == ("durability", 6)


def test_what_comes_from_the_environment_is_named_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAP", "soon")
    said = str(refused(write(tmp_path, LEAST + "sessions: {gap: '${GAP}'}\n")))
    assert "sessions.gap: what ${GAP} holds is wrong: " in said and "soon" not in said
    said = str(refused(write(tmp_path, LEAST + "storage: {endpoint: 'ftp://x'}\n")))
    assert "storage.endpoint: wrong (the value is not shown): it must begin with https://" in said


def test_a_variable_that_not_all_commands_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    text = LEAST + 'warehouse: {postgres: "${NOWHERE}"}\nindex: {elasticsearch: "${NOWHERE}", keep: 3d}\n'
    path = write(tmp_path, text)
    file = load_file(path)
    spec = file.spec()
    assert (spec["warehouse"], spec["index"], set(spec.unset)) == (None, None, {"warehouse", "index"})
    for part in ("warehouse", "index"):
        with pytest.raises(penstock.SettingsError, match=f"{part}.*the environment variable NOWHERE is not set"):
            file.need(part)
    file.need("source")
    # What `--set` gives takes its place.
    other = load_file(path, ["warehouse.duckdb=w.duckdb", "index.file=x.ndjson"])
    assert not other.unset and other.spec()["warehouse"] == {"duckdb": str(tmp_path / "w.duckdb")}


def test_secrets_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2hunter2")
    path = write(tmp_path, LEAST + "pii: {secret: '${SECRET}'}\n")
    flow = penstock.Pipeline.load(path)
    assert flow.file.secret == b"hunter2hunter2"
    for shown in (repr(flow), repr(flow.settings), str(flow.file), flow._repr_html_(), json.dumps(flow.spec())):
        assert "hunter2" not in shown
    for key in ("durability", "memory", "name", "sessions", "layers", "watermark"):
        wrong = LEAST.replace("name: shop\n", "") if key == "name" else LEAST
        assert "hunter2" not in str(refused(write(tmp_path, wrong + f"{key}: '${{SECRET}} /'\n")))
    assert "hunter2" not in str(refused(write(tmp_path, LEAST + "pii: {secrets: hunter2}\n")))
    kafka = "source: {kafka: {topics: [a], group: g, brokers: b, sasl.password: hunter2}}\n"
    file = load_file(write(tmp_path, "name: s\ncontract: c\nlake: l\n" + kafka))
    assert "hunter2" not in repr(file)
    for brokers in ("u:hunter2@h:9092", "[h:9092, 'u:hunter2@i:9092']"):
        login = kafka.replace("brokers: b", f"brokers: {brokers}")
        error = refused(write(tmp_path, "name: s\ncontract: c\nlake: l\n" + login))
        assert "an '@' stands in it: a broker is host:port" in str(error) and "hunter2" not in str(error)


def test_overrides_take_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data/elsewhere")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = write(tmp_path, LEAST)
    assert load_file(path, ["lake=${SOMEWHERE}/lake"]).spec()["lake"] == "/data/elsewhere/lake"
    assert "lake: the environment variable NOWHERE is not set" in str(refused(path, "lake=${NOWHERE}"))


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, EVERYTHING)
    file = load_file(
        path, ["sessions.gap=45m", 'source.files.paths=["a", "b"]', "windows.0.size=2m", "sessions.max_duration=null"]
    )
    assert file.settings.sessions
    assert (file.settings.sessions.gap, file.settings.sessions.max_duration) == (45 * 60_000_000, None)
    assert file.settings.source.files
    assert file.settings.source.files.paths == ["a", "b"]
    assert file.settings.windows[0].size == 120_000_000
    error = refused(path, "sessions.gpa=45m")
    assert str(error) == "--set sessions.gpa: there is no such setting; did you mean 'sessions.gap'?"
    assert (error.name, error.line) == ("sessions.gpa", None)
    # Also where the option alone has made what is above it, which stands on no line of the file.
    error = refused(path, "sesions.gap=45m")
    assert str(error) == "--set sesions.gap: sesions: there is no such setting; did you mean 'sessions.gap'?"
    error = refused(path, "windows.0=1")
    assert str(error) == "--set windows.0: must be a mapping (key: value)"
    error = refused(path, "source.kafka={topics: [a], brokers: x, group: g, start: soon}")
    assert str(error).startswith("--set source.kafka: source.kafka.start: ")
    assert "write it as name=value" in str(refused(path, "sessions.gap"))
    assert "has nothing below it" in str(refused(path, "lake.x.y=1"))
    assert "is no place in a list" in str(refused(path, "windows.7.size=2m"))
    assert load_file(write(tmp_path, LEAST), ["sessions.gap=45m"]).settings.sessions
    flow = penstock.Pipeline.load(path, {"sessions.gap": "45m", "layers": ["bronze"]})
    assert flow.settings.layers == ["bronze"]


def test_what_this_version_does_not_have_is_said(tmp_path: Path) -> None:
    more = "windows: [{name: w, size: 1m, mode: update, aggregates: {n: count()}}]\n"
    flow = penstock.Pipeline.load(write(tmp_path, LEAST + more))
    with pytest.raises(penstock.SettingsError, match=r"windows\.0\.mode"):
        flow.spec()


def test_a_warehouse_in_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgresql://u:hunter2@db.example/shop?sslmode=require")
    for written, schema, limit in (
        ("'postgresql://u:hunter2@db.example/shop?sslmode=require'", "public", None),
        ("'${WAREHOUSE}'", "public", None),
        ("{url: '${WAREHOUSE}', schema: marts, statement_timeout: 5m}", "marts", 5),
        ("'${WAREHOUSE}&schema=marts'", "marts", None),
    ):
        file = load_file(write(tmp_path, f"{LEAST}warehouse: {{postgres: {written}}}\n"))
        spec = file.spec()
        place = "db.example:5432/shop" + ("" if schema == "public" else f" (schema {schema})")
        assert spec["warehouse"] == {
            "postgres": {
                "place": place,
                "schema": schema,
                "statement_timeout_us": limit and limit * 60_000_000,
                "lock_timeout_us": None,
            }
        }
        assert "hunter2" not in repr(spec) + json.dumps(spec) + repr(file)
        target = warehouse_of(spec)
        assert (target.kind, target.place) == ("postgres", place)
        assert target.postgres == file.settings.warehouse.postgres if file.settings.warehouse else None
        other = warehouse_of(spec, "postgresql://u:hunter2@h/d?schema=m&sslmode=require").postgres
        assert has_password("postgresql://u:hunter2@h/d?schema=m") and not has_password("postgresql://u@h/d?schema=m")
        assert other is not None and (other.schema_, other.parameters) == ("m", {"sslmode": "require"})
        assert warehouse_of(spec, "duckdb:other.duckdb").place == "other.duckdb"


def test_mistakes_in_a_url_of_postgresql_are_told_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgresql://u:hunter2@db.example")
    monkeypatch.setenv("NOTHING", "")
    for written, said in (
        ("'postgresql://u:hunter2@db.example'", "no database is named; write postgresql://user@host:5432/database"),
        ("'${WAREHOUSE}'", "no database is named"),
        ("'${NOTHING}'", "it is empty. Is the variable set?"),
        ("'hunter2'", "write postgresql://"),
        ("{url: '${WAREHOUSE}'}", "no database is named"),
        ("{url: 'postgresql://h/d', schem: marts}", "did you mean 'warehouse.postgres.schema'?"),
        ("{url: 'postgresql://h/d', statement_timeout: 0s}", "a millisecond at least"),
        ("{url: 'postgresql://h/d', schema: 'a\"; DROP'}", "letters, digits"),
        ("'postgresql://h/d?schema=a-b'", "letters, digits"),
        ("'postgresql://h/d?schema=a&schema=b'", "is no parameter of PostgreSQL"),
        ("{schema: marts}", "warehouse.postgres.url: is missing"),
        ("5", "warehouse.postgres"),
    ):
        error = refused(write(tmp_path, f"{LEAST}warehouse: {{postgres: {written}}}\n"))
        assert said in str(error)
        assert "warehouse.postgres" in str(error)
        assert "hunter2" not in str(error)


def test_a_warehouse_given_by_an_option_takes_the_place_of_the_files_own(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST + "warehouse: {duckdb: shop.duckdb}\n")
    own = load_file(path, ["warehouse.postgres=postgresql://h/d"]).settings.warehouse
    assert own is not None
    assert (own.duckdb, own.postgres and own.postgres.place) == (None, "h:5432/d")
    assert load_file(path, ["warehouse.postgres.url=postgresql://h/d"]).spec()["warehouse"]["postgres"]["place"]


def test_ready_made_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = load_file("ecommerce")
    assert file.ready_made
    assert file.spec()["lake"] == str(tmp_path / "lake")
    assert file.tables
    with pytest.raises(penstock.SettingsError, match="did you mean 'ecommerce'"):
        load_file("ecomerce")
    with pytest.raises(penstock.SettingsError, match="there is no such file"):
        load_file("no/such.yaml")
    with pytest.raises(penstock.SettingsError, match=re.escape("folder without a pipeline.yaml")):
        load_file(f"{tmp_path}/")


def test_a_source_that_is_set_takes_the_place_of_the_files_own(tmp_path: Path) -> None:
    kafka = LEAST.replace('files: {paths: ["in/*.jsonl"]}', "kafka: {topics: [a], group: g, brokers: ''}")
    path = write(tmp_path, kafka)
    source = load_file(path, ["source.files.paths=in/*.jsonl"]).settings.source
    assert source.kafka is None and source.files is not None and source.files.paths == ["in/*.jsonl"]
    source = load_file(path, ["source.kafka.brokers=h:1"]).settings.source
    assert (
        source.files is None and source.kafka is not None and (source.kafka.group, source.kafka.brokers) == ("g", "h:1")
    )
    with pytest.raises(penstock.SettingsError, match="name one source"):
        load_file(path, ["source.files.paths=x", "source.kafka.brokers=h:1"])
    # Without brokers all but a run works.
    flow = penstock.Pipeline.load(path)
    assert flow.spec()["source"]["kafka"]["brokers"] == ""
    with pytest.raises(penstock.SettingsError, match=r"source\.kafka\.brokers.*KAFKA_BROKERS.*source\.files\.paths"):
        flow.run(progress=False)


def test_aliases_and_merges(tmp_path: Path) -> None:
    text = LEAST + "windows:\n  - &w {name: a, size: 1m, aggregates: {n: count()}}\n  - {<<: *w, name: b}\n"
    assert [w.name for w in load_file(write(tmp_path, text)).settings.windows] == ["a", "b"]
    assert "holds itself" in str(refused(write(tmp_path, LEAST + "layers: &x [*x]\n")))


@given(st.integers(0, 10**15))
def test_a_duration_is_read_as_it_is_written(micros: int) -> None:
    assert parse_duration(format_duration(micros)) == micros
    assert parse_duration(dt.timedelta(microseconds=micros)) == micros


@pytest.mark.parametrize("text", ["", "m", "3", "3x", "-3m", "3m 4", "1e3s", "0.1us", "9999999999999d", "3 m x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|microseconds"):
        parse_duration(text)


def test_sizes() -> None:
    assert [parse_size(x) for x in ("1kB", "1KiB", "1.5MiB", 7, "7", "2GiB")] == [1000, 1024, 1572864, 7, 7, 1 << 31]
    for wrong in ("x", -1, "1 XB", True, "0.5B"):
        with pytest.raises(ValueError, match=r"size|bytes|negative"):
            parse_size(wrong)
