"""What PostgreSQL says when something goes wrong, as one of our errors: without statements, values and passwords."""

from __future__ import annotations

import re
from typing import Any

from penstock.errors import DataError, PenstockError, WarehouseError, WrongWarehouseError
from penstock.warehouse.backend import BackendGoneError, DeadlockError

_GONE = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
_RETRY = ("40001", "40P01")

_REMEDIES = {
    "42501": "the user of the warehouse needs more rights: see the roles in the guide to PostgreSQL",
    "53100": "its disk is full; make room there and run this again",
    "53200": "the server is out of memory; run this again when it has less to do",
    "53300": "it takes no more connections; run this again later, or raise its max_connections",
    "55P03": "somebody holds a lock on a table (VACUUM FULL, ALTER TABLE; pg_stat_activity shows who); run this again "
    "when that has ended",
    "25006": "it takes no changes: it is a standby, or set to read only. Name the primary server",
    "3F000": "make the schema (CREATE SCHEMA), or name another one in warehouse.postgres.schema",
    "42P07": "somebody else's table has this name; name another schema in warehouse.postgres.schema",
}

# What does not pass by itself: no right, no schema, somebody else's table. (A standby may become the primary.)
_FOR_GOOD = ("42501", "3F000", "42P07")

_ANOTHER_LOAD = "another load holds the lock (pg_stat_activity shows it as penstock); run this again when it has ended"

_NO_SUCH_CHARACTER = "the database's encoding has no such character; make a database WITH ENCODING 'UTF8'"


def state_of(error: Exception) -> str:
    """The five characters that name the kind of error; empty when the server did not say any."""
    return str(getattr(error, "sqlstate", None) or "")


def primary(error: Exception) -> str:
    """The server's first line. What comes after it (DETAIL, CONTEXT, the statement) may hold values of events."""
    known: dict[bytes, bytes] = dict(getattr(error, "details", None) or [])
    told = known.get(b"PG_DIAG_MESSAGE_PRIMARY")
    if told is not None:
        text = told.decode(errors="replace")
    else:
        found = re.search(r"\b(?:ERROR|FATAL|PANIC): +(.*)", str(error))
        text = found[1] if found else _without_statement(str(error))
    text = text.strip().splitlines()[0] if text.strip() else "no reason was given"
    state = state_of(error)
    if state.startswith("P0"):
        return "a trigger or a function has refused it"  # and what it says is its author's
    return _without_values(text, every=state.startswith("22")) if not state or state.startswith("22") else text


def _without_values(text: str, *, every: bool = False) -> str:
    """A first line without the value in it: `invalid input syntax for type integer: "…"`, `value "…" is out of …`."""
    text = text.split(': "', maxsplit=1)[0]
    text = re.sub(r"(?: 0x[0-9A-Fa-f]{2})+", " …", text)
    return re.sub(r'".*"' if every else r'(?<=\bvalue )".*"', "…", text)


def _without_statement(text: str) -> str:
    text = re.sub(r"^[A-Z_]+: ", "", text)
    text = re.sub(r"\[libpq\] ", "", text)
    return re.sub(r"Failed to execute query '.*?': ", "", text, flags=re.DOTALL)


def explain(place: str, error: Exception, *, alive: bool = False, for_lock: bool = False) -> PenstockError:
    """An error of a statement.

    Args:
        place: Where it happened.
        error: The driver's own.
        alive: Whether the connection is known to be there still: the driver does not always say what the server said.
        for_lock: Whether it was waiting for the lock of a load.
    """
    state, said = state_of(error), primary(error)
    if not state and alive:
        if "permission denied" in said:
            return WrongWarehouseError(f"warehouse {place}: {said}; {_REMEDIES['42501']}")
        return WarehouseError(f"warehouse {place}: {said}")
    if not state or state.startswith(_GONE):
        return BackendGoneError(
            f"warehouse {place}: the connection was lost ({said}); nothing that was not committed stays"
        )
    if state in _RETRY:
        return DeadlockError(f"warehouse {place}: {said}; nothing was loaded. Run this again")
    limit = "statement" in said and "timeout" in said
    if for_lock and (state == "55P03" or (state == "57014" and limit)):
        return WarehouseError(f"warehouse {place}: {said}; {_ANOTHER_LOAD}")
    if state == "57014":
        remedy = (
            "give it longer in warehouse.postgres.statement_timeout"
            if limit
            else "somebody has cancelled it; run this again"
        )
        return WarehouseError(f"warehouse {place}: {said}; {remedy}")
    if state in _REMEDIES:
        told = f"warehouse {place}: {said}; {_REMEDIES[state]}"
        return WrongWarehouseError(told) if state in _FOR_GOOD else WarehouseError(told)
    if state == "54000":
        return DataError(
            f"warehouse {place}: {said}; a key or an identifier in the events is too long to be looked up. Let the "
            "contract bound it (maxLength)"
        )
    if state in ("22P05", "22021"):
        return DataError(f"warehouse {place}: {said}; {_NO_SUCH_CHARACTER}")
    if state.startswith(("22", "23")):
        return DataError(f"warehouse {place}: {said}")
    if state in ("42703", "42P01", "42804", "42883", "42P10"):
        return DataError(f"warehouse {place}: the tables or files have not the columns expected: {said}")
    return WarehouseError(f"warehouse {place}: {said} (SQLSTATE {state})")


_REFUSALS = (
    (r"password authentication failed for user", "Is the password right? PGPASSWORD or a password file may hold it"),
    (r"no password supplied", "Give one: in PGPASSWORD, in a password file, or as ${ENV} in the URL"),
    (r"role .* does not exist", "Name another user, or make it (CREATE ROLE … LOGIN)"),
    (r"database .* does not exist", "Make it (CREATE DATABASE), or name another one"),
    (r"no pg_hba\.conf entry", "The server's pg_hba.conf lets this user in from nowhere like here"),
    (r"certificate verify failed", "It is not trusted: name its authority's certificate in sslrootcert"),
    (r"root certificate file", "Name the authority's certificate in sslrootcert"),
    (r"does not match host name", "The certificate is another host's: name the host as the certificate does"),
    (r"does not support SSL|server does not support encryption", "The server has no TLS: set sslmode, or turn TLS on"),
    (r"invalid sslmode value|invalid .* value", "See the parameters of libpq's connection strings"),
    (r"definition of service", "Is the service file right (PGSERVICEFILE)?"),
)  # fmt: skip

_AWAY = (
    (r"could not translate host name", "Is the host's name right?"),
    (r"on socket .*No such file", "Name the folder of the server's socket: ?host=/var/run/postgresql"),
    (r"Connection refused", "Is the server running, and is the port right?"),
    (r"timeout expired|timed out", "Is there a firewall between? connect_timeout says how long to wait"),
    (r"the database system is", "It is starting or stopping; run this again in a moment"),
    (r"too many clients|remaining connection slots|too many connections", "Run this again later"),
)


def explain_connection(place: str, error: Exception) -> PenstockError:
    """An error of a connection that could not be made; `BackendGoneError` when the server may yet come back."""
    text = " ".join(_without_statement(str(error)).removeprefix("Failed to connect: ").split())
    # Of several tries (addresses, with and without TLS) the last is the one to show; hosts stand in the place already.
    said = re.sub(r"connection to server at .*? failed: ", "", text)
    said = re.sub(r"^(FATAL|ERROR): +", "", said.rsplit(" FATAL:  ", maxsplit=1)[-1]).strip()
    said = said.removesuffix(" Is the server running on that host and accepting TCP/IP connections?")
    said = said.removesuffix(" Is the server running locally and accepting connections on that socket?")
    if "://" in text or "invalid connection option" in text:
        # libpq repeats what it cannot read, and the password may be in it.
        return WrongWarehouseError(f"warehouse {place}: the driver cannot read its URL")
    said = _without_settings(said)
    for pattern, remedy in _REFUSALS:
        if re.search(pattern, text):
            return WrongWarehouseError(f"warehouse {place}: {said}. {remedy}")
    for pattern, remedy in _AWAY:
        if re.search(pattern, text):
            return BackendGoneError(f"warehouse {place}: cannot be reached: {said}. {remedy}")
    return BackendGoneError(f"warehouse {place}: cannot be reached: {said}")


def _without_settings(said: str) -> str:
    """A refusal of what stands in the URL, without it: somebody may have put the password in the wrong place."""
    said = re.sub(r"(?<=-c ).*(?= requires a value)", "…", said)
    said = re.sub(r"(command-line argument[^:]*: ).*", r"\1…", said)
    if not re.search(r"\b(?:invalid|unrecognized|unsupported|permission denied to set)\b", said):
        return said
    return re.sub(r'(?<!option )"[^"]*"', '"…"', said)


def fetched(place: str, error: Exception, *, alive: bool) -> PenstockError:
    """An error that came while rows were fetched, by way of DuckDB: the server's code is not known then."""
    told: Any = re.search(r"ERROR: +(.*)", str(error))
    if not alive or told is None:
        return BackendGoneError(f"warehouse {place}: the connection was lost; nothing that was not committed stays")
    said = _without_values(told[1]).strip()
    if "statement timeout" in said:
        return WarehouseError(f"warehouse {place}: {said}; give it longer in warehouse.postgres.statement_timeout")
    kind = WrongWarehouseError if said.startswith("permission denied") else WarehouseError
    return kind(f"warehouse {place}: {said}")
