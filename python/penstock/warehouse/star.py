"""The load itself, in SQL: staged Silver rows become facts, and the history of the users moves with them.

All statements are sets over whole tables and keep to what DuckDB and PostgreSQL share. Temporary tables:

* `stage`: the Silver rows of this load, with the keys of the fixed dimensions.
* `gone`: keys (and days) of the facts that this load replaces: their Silver file is removed, or their date comes anew.
* `known`: keys (and days) of `stage` that are facts already.
* `lost`: keys of `gone` that `stage` does not bring again. A table, so that PostgreSQL knows how many there are.
* `touched_days`: days whose facts this load may change.
* `touched`: users whose history this load may change.
* `users`: the rows of `touched` in dim_user, made anew.
"""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own, never text from an event

from __future__ import annotations

from dataclasses import dataclass, fields
from textwrap import dedent
from typing import TYPE_CHECKING

from penstock import _core
from penstock.errors import DataError
from penstock.warehouse import days
from penstock.warehouse.lakelog import absolute, in_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.model import Rows

POSITION = ("lake_topic", "lake_partition", "lake_offset")
"""Where an event stands in its source: what tells two Silver rows apart."""

IN_ORDER = 'lake_topic COLLATE "C", lake_partition, lake_offset'
"""In which order positions stand: by bytes, whatever order of words the database has."""

EVER = "TIMESTAMP '0001-01-01 00:00:00'"
"""Since when an inferred user is valid: before any event."""

TRACKED = ("plan_type",)
"""Attributes of dim_user whose change opens a new row."""

TEMPORARY = (
    "staged", "silver", "lake_files", "stage", "gone", "known", "lost", "contested", "losers", "touched", "strays",
    "history", "users", days.TOUCHED,
)  # fmt: skip


@dataclass
class Counts:
    """What a load changed."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    repointed: int = 0
    duplicates: int = 0
    users: int = 0

    @property
    def facts(self) -> int:
        """Facts written, rewritten or removed."""
        return self.inserted + self.updated + self.deleted

    def add(self, other: Counts) -> None:
        """Count another load's changes too."""
        for counted in fields(self):
            setattr(self, counted.name, getattr(self, counted.name) + getattr(other, counted.name))


@dataclass(frozen=True)
class Star:
    """The columns of the star, as read from its tables: one added to the SQL files needs no change here."""

    facts: tuple[str, ...]
    changes: tuple[str, ...]
    duplicates: tuple[str, ...]
    attributes: tuple[str, ...]

    @classmethod
    def of(cls, warehouse: Backend) -> Star:
        """Read the columns."""
        own = {"user_key", "user_id", "effective_start_date", "effective_end_date", "is_current", "is_inferred"}
        return cls(
            facts=tuple(warehouse.columns("fact_events")),
            changes=tuple(warehouse.columns("dim_user_changes")),
            duplicates=tuple(warehouse.columns("fact_duplicates")),
            attributes=tuple(column for column in warehouse.columns("dim_user") if column not in own),
        )


class StarSchema:
    """The model of the ready-made pipeline `ecommerce`: facts, and dimensions with their history."""

    ddl: tuple[str, ...] = ("1_dimensions.sql", "2_facts.sql", "3_seed.sql")
    queries: tuple[str, ...] = ("silver.sql", "lookup.sql")
    temporary: tuple[str, ...] = TEMPORARY
    with_lake_file: tuple[str, ...] = ("fact_events", "fact_duplicates")

    def load(self, warehouse: Backend, sql: Mapping[str, str], rows: Rows) -> Counts:
        """Bring the star up to date with these rows, inside a transaction."""
        within = rows.within("event_timestamp")
        placed = absolute(rows.spec, rows.files, handed=rows.handed)
        if placed:
            chosen = f"SELECT * FROM ({sql['silver.sql']}) AS silver_rows" + (f" WHERE {within}" if within else "")
            warehouse.stage("staged", chosen, placed, "silver")
            warehouse.temporary("stage", sql["lookup.sql"])
        else:
            warehouse.temporary("stage", "SELECT *, 0 AS nothing FROM fact_duplicates LIMIT 0")
        _core.pass_failpoint("load.staged")
        counts = apply(warehouse, within or in_files(rows.removed))
        if counts.facts:
            days.record(warehouse, str(rows.spec["name"]), rows.number)
        return counts

    def astray(self) -> str:
        """Facts on no row of dim_user, another user's, or one that was not valid at the time."""
        return (
            "SELECT count(*) FROM fact_events AS f LEFT JOIN dim_user AS d ON d.user_key = f.user_key "
            f"WHERE d.user_key IS NULL OR d.user_id <> f.user_id OR NOT ({valid('f', 'd')})"
        )


def apply(warehouse: Backend, scope: str | None) -> Counts:
    """Bring the star up to date with the table `stage`.

    Args:
        warehouse: Inside a transaction, with `stage` made.
        scope: A condition on the columns of a fact: the facts (and waiting duplicates) that `stage` replaces. None when
            it only adds.
    """
    load = _Load(warehouse, Star.of(warehouse))
    load.find(scope)
    load.settle_duplicates()
    days.find(warehouse)
    load.find_touched()
    load.write_changes()
    load.delete_facts()
    load.merge_users()
    load.write_facts()
    return load.counts


def _list(columns: Iterable[str], table: str = "") -> str:
    return ", ".join(f"{table}.{column}" if table else column for column in columns)


def _set(columns: Iterable[str], source: str) -> str:
    return ", ".join(f"{column} = {source}.{column}" for column in columns)


def _differ(columns: Iterable[str], left: str, right: str) -> str:
    """The rows differ in one of the columns, null being a value."""
    columns = tuple(columns)
    return f"(({_list(columns, left)}) IS DISTINCT FROM ({_list(columns, right)}))"


def _same_position(left: str, right: str) -> str:
    return " AND ".join(f"{left}.{column} = {right}.{column}" for column in POSITION)


def valid(event: str, user: str) -> str:
    """The user's row was valid at the event's time."""
    return (
        f"{event}.event_timestamp >= {user}.effective_start_date "
        f"AND ({user}.effective_end_date IS NULL OR {event}.event_timestamp < {user}.effective_end_date)"
    )


def _absent(row: str, table: str, column: str = "idempotency_key") -> str:
    """A row's key is not in a table. Not by NOT IN, for which PostgreSQL goes through the table for every row."""
    return f"NOT EXISTS (SELECT 1 FROM {table} AS absent WHERE absent.{column} = {row}.{column})"


IN_STAGE = "idempotency_key IN (SELECT idempotency_key FROM stage)"
IN_GONE = "idempotency_key IN (SELECT idempotency_key FROM gone)"
IN_LOST = "idempotency_key IN (SELECT idempotency_key FROM lost)"
IN_KNOWN = "idempotency_key IN (SELECT idempotency_key FROM known)"
TOUCHED = "user_id IN (SELECT user_id FROM touched)"
NOT_STAGED = (
    f"NOT EXISTS (SELECT 1 FROM stage AS s WHERE s.idempotency_key = o.idempotency_key AND {_same_position('s', 'o')})"
)


class _Load:
    """The steps of a load, in their order."""

    def __init__(self, warehouse: Backend, star: Star) -> None:
        self.warehouse = warehouse
        self.star = star
        self.counts = Counts()

    def _some(self, table: str) -> bool:
        return bool(self.warehouse.rows(f"SELECT 1 FROM {table} LIMIT 1"))

    def _change(self, sql: str) -> int:
        return self.warehouse.change(dedent(sql))

    def _temporary(self, name: str, sql: str) -> None:
        self.warehouse.temporary(name, dedent(sql))

    def find(self, scope: str | None) -> None:
        """Fill `gone` and `known`, and take the waiting duplicates of this load's keys into `stage`."""
        ((strangers,),) = self.warehouse.rows("SELECT count(*) FROM stage WHERE user_id IS NULL")
        if strangers:
            raise DataError(
                f"{strangers} Silver rows name no user, so that they fit no row of dim_user; nothing was loaded. "
                "Let the contract require what its role `entity` points to"
            )
        keys = "idempotency_key, CAST(event_timestamp AS DATE) AS event_date"
        self._temporary("gone", f"SELECT {keys} FROM fact_events WHERE {scope or 'false'}")
        if scope:
            self._change(f"DELETE FROM fact_duplicates WHERE {scope}")
        columns = self.star.duplicates
        self._change(f"""
            INSERT INTO stage ({_list(columns)})
            SELECT {_list(columns, "o")} FROM fact_duplicates AS o
            WHERE (o.{IN_STAGE} OR o.{IN_GONE}) AND {NOT_STAGED}
        """)
        self._change(f"DELETE FROM fact_duplicates WHERE {IN_STAGE}")
        self._temporary("known", f"SELECT {keys}, {_list(POSITION)} FROM fact_events WHERE {IN_STAGE}")

    def settle_duplicates(self) -> None:
        """Leave in `stage` one row a key, the earliest of all that are loaded; the others wait in fact_duplicates."""
        columns = self.star.duplicates
        if self._some("known"):
            # Facts that stay, and compete with another event of `stage`.
            plain = [column for column in columns if column != "is_change"]
            values = ", ".join(f"{'f' if column in self.star.facts else 'c'}.{column}" for column in plain)
            self._change(f"""
                INSERT INTO stage (is_change, {_list(plain)})
                SELECT c.idempotency_key IS NOT NULL, {values}
                FROM known AS o
                JOIN fact_events AS f ON f.idempotency_key = o.idempotency_key
                LEFT JOIN dim_user_changes AS c ON c.idempotency_key = o.idempotency_key
                WHERE {_absent("o", "gone")} AND {NOT_STAGED}
            """)
        self._temporary("contested", "SELECT idempotency_key FROM stage GROUP BY idempotency_key HAVING count(*) > 1")
        if not self._some("contested"):
            return
        identity = _list(("idempotency_key", *POSITION, "lake_file"))
        self._temporary(
            "losers",
            f"""
            SELECT {identity} FROM (
                SELECT {identity}, row_number() OVER (
                    PARTITION BY idempotency_key ORDER BY event_timestamp, {IN_ORDER}, lake_file
                ) AS place
                FROM stage WHERE idempotency_key IN (SELECT idempotency_key FROM contested)
            ) AS ranked
            WHERE place > 1
            """,
        )
        lost = (
            "EXISTS (SELECT 1 FROM losers AS l WHERE l.idempotency_key = stage.idempotency_key "
            f"AND {_same_position('l', 'stage')} AND l.lake_file = stage.lake_file)"
        )
        self.counts.duplicates = self._change(
            f"INSERT INTO fact_duplicates ({_list(columns)}) SELECT {_list(columns)} FROM stage WHERE {lost}"
        )
        self._change(f"DELETE FROM stage WHERE {lost}")

    def find_touched(self) -> None:
        """Fill `lost` and `touched`."""
        self._temporary("lost", f"SELECT idempotency_key FROM gone WHERE {_absent('gone', 'stage')}")
        changed = _differ((column for column in self.star.changes if column != "idempotency_key"), "c", "s")
        moved = _differ(("user_id", "event_timestamp"), "f", "s")
        self._temporary(
            "touched",
            f"""
            -- A change that is gone, another, or new.
            SELECT user_id FROM dim_user_changes WHERE {IN_LOST}
            UNION
            SELECT c.user_id FROM dim_user_changes AS c JOIN stage AS s ON s.idempotency_key = c.idempotency_key
            WHERE NOT s.is_change OR {changed}
            UNION
            SELECT s.user_id FROM stage AS s LEFT JOIN dim_user_changes AS c ON c.idempotency_key = s.idempotency_key
            WHERE s.is_change AND (c.idempotency_key IS NULL OR {changed})
            UNION
            -- An event before the first row of its user.
            SELECT s.user_id FROM stage AS s
            LEFT JOIN (SELECT user_id, min(effective_start_date) AS since FROM dim_user GROUP BY user_id) AS d
                ON d.user_id = s.user_id
            WHERE d.since IS NULL OR s.event_timestamp < d.since
            UNION
            -- An event that leaves an inferred row, maybe as the last one.
            SELECT f.user_id
            FROM (SELECT idempotency_key FROM gone UNION SELECT idempotency_key FROM known) AS k
            JOIN fact_events AS f ON f.idempotency_key = k.idempotency_key
            JOIN dim_user AS d ON d.user_key = f.user_key AND d.is_inferred
            LEFT JOIN stage AS s ON s.idempotency_key = k.idempotency_key
            WHERE s.idempotency_key IS NULL OR {moved}
            """,
        )

    def write_changes(self) -> None:
        """Bring dim_user_changes in line with `stage` and `gone`."""
        columns = self.star.changes
        values = [column for column in columns if column != "idempotency_key"]
        self._change(f"""
            DELETE FROM dim_user_changes
            WHERE {IN_LOST}
                OR idempotency_key IN (SELECT idempotency_key FROM stage WHERE NOT is_change)
        """)
        self._change(f"""
            UPDATE dim_user_changes SET {_set(values, "s")} FROM stage AS s
            WHERE s.idempotency_key = dim_user_changes.idempotency_key AND s.is_change
                AND {_differ(values, "dim_user_changes", "s")}
        """)
        self._change(f"""
            INSERT INTO dim_user_changes ({_list(columns)}) SELECT {_list(columns)} FROM stage WHERE is_change
            ON CONFLICT (idempotency_key) DO NOTHING
        """)

    def delete_facts(self) -> None:
        """Remove the facts whose Silver row is gone."""
        self.counts.deleted = self._change(f"DELETE FROM fact_events WHERE {IN_LOST}")

    def merge_users(self) -> None:
        """Make the rows of the touched users anew from all their changes, and point their facts at them."""
        if not self._some("touched"):
            return
        self._make_history()
        columns = (
            "user_id", *self.star.attributes, "effective_start_date", "effective_end_date", "is_current", "is_inferred",
        )  # fmt: skip
        removed = self._change(f"DELETE FROM dim_user WHERE {TOUCHED} AND {_absent('dim_user', 'users', 'user_key')}")
        updated = self._change(f"""
            UPDATE dim_user SET {_set(columns, "u")} FROM users AS u
            WHERE u.user_key = dim_user.user_key AND u.user_id = dim_user.user_id
                AND {_differ(columns, "dim_user", "u")}
        """)
        # Two users under one key violate the primary key here, and the load ends with that error.
        inserted = self._change(f"""
            INSERT INTO dim_user (user_key, {_list(columns)})
            SELECT user_key, {_list(columns)} FROM users AS u
            WHERE NOT EXISTS (SELECT 1 FROM dim_user AS d WHERE d.user_key = u.user_key AND d.user_id = u.user_id)
        """)
        self.counts.users = removed + updated + inserted
        self.counts.repointed = self._change(f"""
            UPDATE fact_events SET user_key = u.user_key FROM users AS u
            WHERE u.user_id = fact_events.user_id AND {valid("fact_events", "u")}
                AND fact_events.user_key <> u.user_key AND {_absent("fact_events", "known")}
        """)

    def _make_history(self) -> None:
        """Fill `users`, by the engine's kernel."""
        # Users with an event before their first change. Events are those that stay facts and those that become one.
        self._temporary(
            "strays",
            f"""
            SELECT e.user_id
            FROM (
                SELECT user_id, min(event_timestamp) AS first_at
                FROM (
                    SELECT user_id, event_timestamp FROM fact_events
                    WHERE {TOUCHED} AND {_absent("fact_events", "known")}
                    UNION ALL
                    SELECT user_id, event_timestamp FROM stage WHERE {TOUCHED}
                ) AS events
                GROUP BY user_id
            ) AS e
            LEFT JOIN (
                SELECT user_id, min(event_timestamp) AS first_at FROM dim_user_changes WHERE {TOUCHED} GROUP BY user_id
            ) AS c ON c.user_id = e.user_id
            WHERE c.first_at IS NULL OR e.first_at < c.first_at
            """,
        )
        # To the kernel an inferred row is a change like any other: at the beginning of time, with no attributes.
        changes = self.warehouse.arrow(
            dedent(f"""
            SELECT user_id, event_timestamp AT TIME ZONE 'UTC' AS changed_at, false AS before_first,
                row_number() OVER (ORDER BY {IN_ORDER}) AS position, {_list(self.star.attributes)}
            FROM dim_user_changes WHERE {TOUCHED}
            UNION ALL
            SELECT user_id, {EVER} AT TIME ZONE 'UTC', true, 0, {", ".join("NULL" for _ in self.star.attributes)}
            FROM strays
            """)
        )
        merged = _core.scd2_merge(
            None,
            changes,
            key=["user_id"],
            at="changed_at",
            tracked=["before_first", *TRACKED],
            op=None,
            order="position",
        )
        self.warehouse.put_arrow("history", merged.history())
        attributes = ", ".join(f"CASE WHEN NOT before_first THEN {name} END AS {name}" for name in self.star.attributes)
        self._temporary(
            "users",
            f"""
            SELECT surrogate_key AS user_key, user_id, {attributes},
                effective_start AT TIME ZONE 'UTC' AS effective_start_date,
                effective_end AT TIME ZONE 'UTC' AS effective_end_date,
                is_current, before_first AS is_inferred
            FROM history
            """,
        )

    def write_facts(self) -> None:
        """Rewrite the facts that differ from `stage`, and add the new ones."""
        columns = self.star.facts
        values = [column for column in columns if column != "idempotency_key"]
        picked = ", ".join("d.user_key" if column == "user_key" else f"s.{column}" for column in columns)
        rows = f"""
            SELECT {picked} FROM stage AS s
            JOIN dim_user AS d ON d.user_id = s.user_id AND {valid("s", "d")}
        """
        if self._some("known"):
            self.counts.updated = self._change(f"""
                UPDATE fact_events SET {_set(values, "r")} FROM ({rows} WHERE s.{IN_KNOWN}) AS r
                WHERE r.idempotency_key = fact_events.idempotency_key AND {_differ(values, "fact_events", "r")}
            """)
        order = "ORDER BY s.idempotency_key" if self.warehouse.order_inserts else ""
        self.counts.inserted = self._change(f"""
            INSERT INTO fact_events ({_list(columns)}) {rows} WHERE {_absent("s", "known")} {order}
            ON CONFLICT (idempotency_key) DO NOTHING
        """)
        ((staged, known),) = self.warehouse.rows("SELECT (SELECT count(*) FROM stage), (SELECT count(*) FROM known)")
        if self.counts.inserted != staged - known:
            raise DataError(
                f"warehouse {self.warehouse.place}: {staged - known} new facts were staged, and {self.counts.inserted} "
                "written; nothing was loaded. Something else than `penstock load` has changed the tables"
            )
