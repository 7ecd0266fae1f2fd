"""The load itself, in SQL: staged Silver rows become facts, and the history of the users moves with them.

All statements are sets over whole tables and keep to what DuckDB and PostgreSQL share. The tables:

* `stage`: the Silver rows of this load, with the keys of the fixed dimensions.
* `gone`: keys of the facts that this load replaces, those whose Silver file was removed or whose date is loaded again.
* `known`: keys of `stage` that are facts already.
* `touched`: users whose history this load may change.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from penstock import _core
from penstock.errors import DataError
from penstock.warehouse.backend import Backend

POSITION = ("lake_topic", "lake_partition", "lake_offset")
"""Where an event stands in its source: what tells two Silver rows apart."""

EVER = "TIMESTAMP '0001-01-01 00:00:00'"
"""Since when an inferred user is valid: before any event."""

TEMPORARY = (
    "staged", "silver", "lake_files", "stage", "gone", "known", "contested", "losers", "touched", "strays", "history",
    "users",
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

    def add(self, other: Counts) -> None:
        """Count another load's changes too."""
        for column in fields(self):
            setattr(self, column.name, getattr(self, column.name) + getattr(other, column.name))


@dataclass(frozen=True)
class Star:
    """The columns of a star with events as facts and a type 2 dimension of users, as read from its tables."""

    facts: tuple[str, ...]
    changes: tuple[str, ...]
    duplicates: tuple[str, ...]
    attributes: tuple[str, ...]
    tracked: tuple[str, ...] = ("plan_type",)

    @classmethod
    def of(cls, warehouse: Backend) -> Star:
        """Read the columns, so that one added to the SQL files needs no change here."""
        users = warehouse.columns("dim_user")
        own = {"user_key", "user_id", "effective_start_date", "effective_end_date", "is_current", "is_inferred"}
        return cls(
            facts=tuple(warehouse.columns("fact_events")),
            changes=tuple(warehouse.columns("dim_user_changes")),
            duplicates=tuple(warehouse.columns("fact_duplicates")),
            attributes=tuple(column for column in users if column not in own),
        )


def listed(columns: tuple[str, ...] | list[str], table: str = "") -> str:
    """Columns for a SELECT or INSERT."""
    return ", ".join(f"{table}.{column}" if table else column for column in columns)


def differs(columns: tuple[str, ...] | list[str], left: str, right: str) -> str:
    """A condition: the rows differ in one of the columns, null being a value."""
    return f"(({listed(columns, left)}) IS DISTINCT FROM ({listed(columns, right)}))"


def assigned(columns: tuple[str, ...] | list[str], source: str) -> str:
    """The SET list of an UPDATE."""
    return ", ".join(f"{column} = {source}.{column}" for column in columns)


def same_position(left: str, right: str) -> str:
    """A condition: both rows are the same event of the source."""
    return " AND ".join(f"{left}.{column} = {right}.{column}" for column in POSITION)


NOT_STAGED = (
    f"NOT EXISTS (SELECT 1 FROM stage AS s WHERE s.idempotency_key = o.idempotency_key AND {same_position('s', 'o')})"
)


def apply(warehouse: Backend, scope: str | None) -> Counts:
    """Bring the star up to date with the table `stage`.

    Args:
        warehouse: Inside a transaction, with `stage` made.
        scope: A condition on the columns of a fact: the facts (and waiting duplicates) that `stage` replaces. None when
            it only adds.
    """
    return _Load(warehouse, Star.of(warehouse)).run(scope)


class _Load:
    def __init__(self, warehouse: Backend, star: Star) -> None:
        self.warehouse = warehouse
        self.star = star
        self.counts = Counts()

    def run(self, scope: str | None) -> Counts:
        self._find(scope)
        self._settle_duplicates()
        self._find_touched()
        self._write_changes()
        self.counts.deleted = self.warehouse.change(
            "DELETE FROM fact_events WHERE idempotency_key IN (SELECT idempotency_key FROM gone) "
            "AND idempotency_key NOT IN (SELECT idempotency_key FROM stage)"
        )
        if self._some("touched"):
            self._merge_users()
        self._write_facts()
        return self.counts

    def _some(self, table: str) -> bool:
        return bool(self.warehouse.rows(f"SELECT 1 FROM {table} LIMIT 1"))

    def _find(self, scope: str | None) -> None:
        """Fill `gone` and `known`, and take the waiting duplicates of this load's keys into `stage`."""
        star, run = self.star, self.warehouse.change
        ((strangers,),) = self.warehouse.rows("SELECT count(*) FROM stage WHERE user_id IS NULL")
        if strangers:
            raise DataError(
                f"{strangers} Silver rows name no user, so that they fit no row of dim_user; nothing was loaded. "
                "Let the contract require what its role `entity` points to"
            )
        self.warehouse.temporary("gone", f"SELECT idempotency_key FROM fact_events WHERE {scope or 'false'}")
        if scope:
            run(f"DELETE FROM fact_duplicates WHERE {scope}")
        run(
            f"INSERT INTO stage ({listed(star.duplicates)}) SELECT {listed(star.duplicates, 'o')} "
            "FROM fact_duplicates AS o WHERE (o.idempotency_key IN (SELECT idempotency_key FROM stage) "
            f"OR o.idempotency_key IN (SELECT idempotency_key FROM gone)) AND {NOT_STAGED}"
        )
        run("DELETE FROM fact_duplicates WHERE idempotency_key IN (SELECT idempotency_key FROM stage)")
        self.warehouse.temporary(
            "known",
            f"SELECT idempotency_key, {listed(POSITION)} FROM fact_events "
            "WHERE idempotency_key IN (SELECT idempotency_key FROM stage)",
        )

    def _settle_duplicates(self) -> None:
        """Leave in `stage` one row a key, the earliest of all that are loaded; the others wait in fact_duplicates."""
        star, run = self.star, self.warehouse.change
        if self._some("known"):
            # Facts that stay and compete with another event of `stage`.
            origin = {column: "f" if column in star.facts else "c" for column in star.duplicates}
            values = [f"{origin[column]}.{column}" for column in star.duplicates if column != "is_change"]
            names = [column for column in star.duplicates if column != "is_change"]
            run(
                f"INSERT INTO stage (is_change, {listed(names)}) "
                f"SELECT c.idempotency_key IS NOT NULL, {', '.join(values)} "
                "FROM known AS o JOIN fact_events AS f ON f.idempotency_key = o.idempotency_key "
                "LEFT JOIN dim_user_changes AS c ON c.idempotency_key = f.idempotency_key "
                f"WHERE o.idempotency_key NOT IN (SELECT idempotency_key FROM gone) AND {NOT_STAGED}"
            )
        self.warehouse.temporary(
            "contested", "SELECT idempotency_key FROM stage GROUP BY idempotency_key HAVING count(*) > 1"
        )
        if not self._some("contested"):
            return
        order = listed(("event_timestamp", *POSITION, "lake_file"))
        self.warehouse.temporary(
            "losers",
            f"SELECT idempotency_key, {listed(POSITION)}, lake_file FROM ("
            f"SELECT idempotency_key, {listed(POSITION)}, lake_file, "
            f"row_number() OVER (PARTITION BY idempotency_key ORDER BY {order}) AS place "
            "FROM stage WHERE idempotency_key IN (SELECT idempotency_key FROM contested)) AS ranked WHERE place > 1",
        )
        lost = (
            "EXISTS (SELECT 1 FROM losers AS l WHERE l.idempotency_key = stage.idempotency_key "
            f"AND {same_position('l', 'stage')} AND l.lake_file = stage.lake_file)"
        )
        self.counts.duplicates = run(
            f"INSERT INTO fact_duplicates ({listed(star.duplicates)}) SELECT {listed(star.duplicates)} FROM stage WHERE {lost}"
        )
        run(f"DELETE FROM stage WHERE {lost}")

    def _find_touched(self) -> None:
        """Fill `touched`: users with a change that is new, different or gone, and users whose inferred row may move."""
        changed = differs([column for column in self.star.changes if column != "idempotency_key"], "c", "s")
        self.warehouse.temporary(
            "touched",
            "SELECT c.user_id FROM dim_user_changes AS c WHERE c.idempotency_key IN (SELECT idempotency_key FROM gone) "
            "AND c.idempotency_key NOT IN (SELECT idempotency_key FROM stage) "
            "UNION SELECT c.user_id FROM dim_user_changes AS c JOIN stage AS s ON s.idempotency_key = c.idempotency_key "
            f"WHERE NOT s.is_change OR {changed} "
            "UNION SELECT s.user_id FROM stage AS s LEFT JOIN dim_user_changes AS c ON c.idempotency_key = s.idempotency_key "
            f"WHERE s.is_change AND (c.idempotency_key IS NULL OR {changed}) "
            # An event before the first row of its user.
            "UNION SELECT s.user_id FROM stage AS s LEFT JOIN "
            "(SELECT user_id, min(effective_start_date) AS since FROM dim_user GROUP BY user_id) AS d "
            "ON d.user_id = s.user_id WHERE d.since IS NULL OR s.event_timestamp < d.since "
            # An event that leaves an inferred row, maybe the last one there.
            "UNION SELECT f.user_id FROM (SELECT idempotency_key FROM gone UNION SELECT idempotency_key FROM known) AS k "
            "JOIN fact_events AS f ON f.idempotency_key = k.idempotency_key "
            "JOIN dim_user AS d ON d.user_key = f.user_key AND d.is_inferred "
            "LEFT JOIN stage AS s ON s.idempotency_key = k.idempotency_key "
            f"WHERE s.idempotency_key IS NULL OR {differs(['user_id', 'event_timestamp'], 's', 'f')}",
        )

    def _write_changes(self) -> None:
        """Bring dim_user_changes in line with `stage` and `gone`."""
        columns, run = self.star.changes, self.warehouse.change
        values = [column for column in columns if column != "idempotency_key"]
        run(
            "DELETE FROM dim_user_changes WHERE (idempotency_key IN (SELECT idempotency_key FROM gone) "
            "AND idempotency_key NOT IN (SELECT idempotency_key FROM stage)) "
            "OR idempotency_key IN (SELECT idempotency_key FROM stage WHERE NOT is_change)"
        )
        run(
            f"UPDATE dim_user_changes SET {assigned(values, 's')} FROM stage AS s "
            "WHERE s.idempotency_key = dim_user_changes.idempotency_key AND s.is_change "
            f"AND {differs(values, 'dim_user_changes', 's')}"
        )
        run(
            f"INSERT INTO dim_user_changes ({listed(columns)}) SELECT {listed(columns)} FROM stage WHERE is_change "
            "ON CONFLICT (idempotency_key) DO NOTHING"
        )

    def _merge_users(self) -> None:
        """Make the rows of the touched users anew from all their changes, and point their facts at them."""
        star, warehouse = self.star, self.warehouse
        touched = "user_id IN (SELECT user_id FROM touched)"
        # Users with an event before their first change. The events are those that stay facts and those that become one.
        warehouse.temporary(
            "strays",
            "SELECT e.user_id FROM (SELECT user_id, min(event_timestamp) AS first FROM ("
            f"SELECT user_id, event_timestamp FROM fact_events WHERE {touched} "
            "AND idempotency_key NOT IN (SELECT idempotency_key FROM known) "
            f"UNION ALL SELECT user_id, event_timestamp FROM stage WHERE {touched}) AS events GROUP BY user_id) AS e "
            "LEFT JOIN (SELECT user_id, min(event_timestamp) AS first FROM dim_user_changes "
            f"WHERE {touched} GROUP BY user_id) AS c ON c.user_id = e.user_id WHERE c.first IS NULL OR e.first < c.first",
        )
        names = listed(star.attributes)
        changes = warehouse.arrow(
            "SELECT user_id, event_timestamp AT TIME ZONE 'UTC' AS changed_at, false AS is_inferred, "
            f"row_number() OVER (ORDER BY {listed(POSITION)}) AS position, {names} FROM dim_user_changes WHERE {touched} "
            f"UNION ALL SELECT user_id, {EVER} AT TIME ZONE 'UTC', true, 0, "
            f"{', '.join('NULL' for _ in star.attributes)} FROM strays"
        )
        merged = _core.scd2_merge(
            None,
            changes,
            key=["user_id"],
            at="changed_at",
            tracked=["is_inferred", *star.tracked],
            op=None,
            order="position",
        )
        warehouse.put_arrow("history", merged.history())
        attributes = ", ".join(f"CASE WHEN is_inferred THEN NULL ELSE {name} END AS {name}" for name in star.attributes)
        warehouse.temporary(
            "users",
            f"SELECT surrogate_key AS user_key, user_id, {attributes}, "
            "effective_start AT TIME ZONE 'UTC' AS effective_start_date, "
            "effective_end AT TIME ZONE 'UTC' AS effective_end_date, is_current, is_inferred FROM history",
        )
        columns = (
            "user_id",
            *star.attributes,
            "effective_start_date",
            "effective_end_date",
            "is_current",
            "is_inferred",
        )
        self.counts.users = (
            warehouse.change(f"DELETE FROM dim_user WHERE {touched} AND user_key NOT IN (SELECT user_key FROM users)")
            + warehouse.change(
                f"UPDATE dim_user SET {assigned(columns, 'u')} FROM users AS u "
                f"WHERE u.user_key = dim_user.user_key AND u.user_id = dim_user.user_id AND {differs(columns, 'dim_user', 'u')}"
            )
            + warehouse.change(
                f"INSERT INTO dim_user (user_key, {listed(columns)}) SELECT user_key, {listed(columns)} FROM users AS u "
                "WHERE NOT EXISTS (SELECT 1 FROM dim_user AS d WHERE d.user_key = u.user_key AND d.user_id = u.user_id)"
            )
        )
        self.counts.repointed = warehouse.change(
            "UPDATE fact_events SET user_key = u.user_key FROM users AS u WHERE u.user_id = fact_events.user_id "
            f"AND {valid('fact_events', 'u')} AND fact_events.user_key <> u.user_key "
            "AND fact_events.idempotency_key NOT IN (SELECT idempotency_key FROM known)"
        )

    def _write_facts(self) -> None:
        """Rewrite the facts that differ from `stage`, and add the new ones."""
        star, warehouse = self.star, self.warehouse
        rows = (
            f"SELECT {', '.join('d.user_key' if column == 'user_key' else f's.{column}' for column in star.facts)} "
            f"FROM stage AS s JOIN dim_user AS d ON d.user_id = s.user_id AND {valid('s', 'd')}"
        )
        if self._some("known"):
            values = [column for column in star.facts if column != "idempotency_key"]
            self.counts.updated = warehouse.change(
                f"UPDATE fact_events SET {assigned(values, 'r')} FROM ({rows} "
                "WHERE s.idempotency_key IN (SELECT idempotency_key FROM known)) AS r "
                f"WHERE r.idempotency_key = fact_events.idempotency_key AND {differs(values, 'fact_events', 'r')}"
            )
            rows += " WHERE s.idempotency_key NOT IN (SELECT idempotency_key FROM known)"
        self.counts.inserted = warehouse.change(
            f"INSERT INTO fact_events ({listed(star.facts)}) {rows} ON CONFLICT (idempotency_key) DO NOTHING"
        )
        ((staged, known),) = warehouse.rows("SELECT (SELECT count(*) FROM stage), (SELECT count(*) FROM known)")
        if self.counts.inserted != staged - known:
            raise DataError(
                f"warehouse {warehouse.place}: {staged - known} new facts were staged and {self.counts.inserted} written; "
                "nothing was loaded. The tables have been changed by something else than `penstock load`"
            )


def valid(event: str, user: str) -> str:
    """A condition: the user's row was valid at the event's time."""
    return (
        f"{event}.event_timestamp >= {user}.effective_start_date "
        f"AND ({user}.effective_end_date IS NULL OR {event}.event_timestamp < {user}.effective_end_date)"
    )


def check(warehouse: Backend) -> dict[str, Any]:
    """Count what must never be: facts with no or another user's row, or outside the time for which it is valid."""
    (orphans, astray) = warehouse.rows(
        "SELECT count(*) FILTER (WHERE d.user_key IS NULL), count(*) FILTER (WHERE d.user_key IS NOT NULL AND NOT ("
        f"d.user_id = f.user_id AND {valid('f', 'd')})) FROM fact_events AS f "
        "LEFT JOIN dim_user AS d ON d.user_key = f.user_key"
    )[0]
    return {"orphans": orphans, "astray": astray}
