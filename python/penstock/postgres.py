"""`warehouse.postgres`: where the database is, and how long a load may wait there.

The URL is libpq's own (`postgresql://user@host:5432/database?sslmode=verify-full`); what it leaves out libpq takes from
the environment (`PGPASSWORD`, `PGSSLROOTCERT`, …), a password file or a service file. It is read here before libpq sees
it: libpq repeats parts of a URL that it cannot read, and those may be the password.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from penstock.errors import SettingsError
from penstock.nearest import did_you_mean, nearest
from penstock.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM = "postgresql://user@host:5432/database"
"""How a URL is written; stands in messages."""

_MINUTE = 60_000_000

_LIMITS = ("statement_timeout", "lock_timeout")

_PARAMETERS = (
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name",
    "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "krbsrvname", "load_balance_hosts", "options", "passfile", "password", "port",
    "require_auth", "requirepeer", "service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
    "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslpassword",
    "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
)  # fmt: skip


def is_postgres(text: str) -> bool:
    """Whether a warehouse is named by what begins like a URL of PostgreSQL."""
    return re.match(r"postgres(ql)?:", text.strip(), re.IGNORECASE) is not None


def has_password(url: str) -> bool:
    """Whether a password stands in a URL; one that cannot be read is told of elsewhere."""
    try:
        return _Url(_split(url.strip())[0]).has_password
    except ValueError:
        return False


class _Url:
    """The parts of a URL that may be shown, and what it sets."""

    def __init__(self, url: str) -> None:
        found = re.fullmatch(r"postgres(?:ql)?://([^/?]*)(?:/([^?]*))?(?:\?(.*))?", url, re.IGNORECASE | re.DOTALL)
        if found is None:
            raise ValueError(f"it is no URL of PostgreSQL; write {FORM}")
        if re.search(r"[\s\x00-\x1f\x7f#]", url):
            raise ValueError("it holds a blank, a '#' or a control character; write them as %20, %23 and so on")
        if re.search(r"%(?![0-9A-Fa-f]{2})", url) or "%00" in url:
            raise ValueError("a '%' stands in it that begins no character; write it as %25")
        authority, path, query = (part or "" for part in found.groups())
        if "@" in path or authority.count("@") > 1:
            raise ValueError("there is a '/' or '@' in the user or password; write them as %2F and %40")
        self.settings = self._settings(query)
        user, _, hosts = authority.rpartition("@")
        self.has_password = bool(user.partition(":")[2]) or "password" in self.settings
        self.hosts = self._hosts(hosts)
        self.database = urllib.parse.unquote(path) or self.settings.get("dbname", "")
        if not self.database and "service" not in self.settings:
            raise ValueError(f"no database is named; write {FORM}")

    @staticmethod
    def _settings(query: str) -> dict[str, str]:
        settings = {}
        for part in filter(None, query.split("&")):
            name, equals, value = part.partition("=")
            # What is wrong here may be the end of a password: only what it may have meant is shown.
            if not equals or name not in _PARAMETERS:
                near = nearest(name, _PARAMETERS) if equals else None
                hint = f"; did you mean {near!r}?" if near else " (a '?' in a password is written as %3F)"
                raise ValueError(f"what follows its '?' is no parameter of PostgreSQL{hint}")
            settings[name] = urllib.parse.unquote(value)
        return settings

    def _hosts(self, text: str) -> list[str]:
        named = text or urllib.parse.quote(self.settings.get("host", self.settings.get("hostaddr", "")), safe="/:,")
        hosts = []
        for part in named.split(","):
            found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(\d*))?", part)
            if found is None or (found[2] and not 0 < int(found[2]) < 65_536):
                raise ValueError(f"its host or port cannot be read (is there a ':' in the password?); write {FORM}")
            port = found[2] or self.settings.get("port") or "5432"
            name = urllib.parse.unquote(found[1])
            hosts.append(f"{name}:{port}" if name else "")
        return hosts

    @property
    def place(self) -> str:
        """Host, port and database, as messages call it."""
        hosts = ",".join(filter(None, self.hosts))
        if "service" in self.settings and not hosts:
            return f"service {self.settings['service']}"
        return f"{hosts or 'localhost'}/{self.database}"


def _readable(url: SecretStr) -> SecretStr:
    text = url.get_secret_value().strip()
    if not text:
        raise ValueError("it is empty. Is the variable set?")
    _Url(text)
    # libpq knows the scheme in small letters only, and repeats a URL that it does not know: password and all.
    scheme, colon, rest = text.partition(":")
    return SecretStr(scheme.lower() + colon + rest)


def _duration(value: Any) -> int:
    micros = parse_duration(value)
    if not 1_000 <= micros < 2**31 * 1_000:
        raise ValueError("it must be a millisecond at least, and 24 days at most")
    return micros


_Duration = Annotated[int, BeforeValidator(_duration)]


class Postgres(BaseModel):
    """A database of PostgreSQL, 14 or newer.

    Attributes:
        url: Where it is; secret as a whole.
        schema_: The schema that the tables are in.
        statement_timeout: How long one statement may take, in microseconds. Unless it is given, what the URL's
            `options`, the role or the database says goes before it.
        lock_timeout: How long a load waits for another one, in microseconds; likewise.
    """

    # Values stay out of pydantic's own messages: they may be secrets.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    url: Annotated[SecretStr, AfterValidator(_readable)]
    schema_: str = Field(default="public", alias="schema", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    statement_timeout: _Duration = 30 * _MINUTE
    lock_timeout: _Duration = 10 * _MINUTE

    @classmethod
    def of(cls, settings: Postgres | Mapping[str, Any] | str) -> Postgres:
        """A database as an argument names it: this class, a mapping, or its URL.

        Raises:
            SettingsError: It cannot be read; nothing of the URL is shown.
        """
        if isinstance(settings, Postgres):
            return settings
        try:
            return cls.model_validate(from_text(settings))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            below = [str(part) for part in found["loc"] if part != "url"]
            name = ".".join(["warehouse", "postgres", *below])
            reason = str(found["msg"]).removeprefix("Value error, ")
            if found["type"] == "extra_forbidden":
                known = [field.alias or name for name, field in cls.model_fields.items()]
                reason = f"there is no such setting; {did_you_mean(below[-1], known)}"
            elif found["type"] == "string_pattern_mismatch":
                reason = "use up to 63 letters, digits and '_', the first a letter or '_'"
            raise SettingsError(f"{name.replace('.', ': ', 1)}: {reason}", name=name) from None

    @property
    def place(self) -> str:
        """What to call it in messages; no user and no password."""
        place = _Url(self.url.get_secret_value()).place
        return place if self.schema_ == "public" else f"{place} (schema {self.schema_})"

    @property
    def parameters(self) -> dict[str, str]:
        """What the URL sets after its `?`; may hold a password."""
        return _Url(self.url.get_secret_value()).settings

    def spec(self) -> dict[str, Any]:
        """What a specification says of it; nothing in it is secret."""
        return {
            "place": self.place,
            "schema": self.schema_,
            # None where the pipeline file says nothing of it, so that what the server says may stand.
            **{f"{name}_us": getattr(self, name) if name in self.model_fields_set else None for name in _LIMITS},
        }

    @classmethod
    def from_spec(cls, told: Mapping[str, Any], url: str) -> Postgres:
        """The other way round, with the URL that travels beside the specification."""
        return cls.of(
            {
                "url": url,
                "schema": told["schema"],
                **{name: f"{told[f'{name}_us']}us" for name in _LIMITS if told[f"{name}_us"] is not None},
            }
        )


def from_text(value: Any) -> Any:
    """A URL alone stands for a mapping with nothing else in it but the schema that a parameter `schema` names."""
    if not isinstance(value, (str, SecretStr)):
        return value
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    url, schema = _split(text)
    return {"url": value} if schema is None else {"url": url, "schema": schema}


def _split(url: str) -> tuple[str, str | None]:
    """A URL as libpq takes it, and the schema that it names."""
    start, _, query = url.partition("?")
    parts = query.split("&")
    own = next((part for part in parts if part.startswith("schema=")), None)
    if own is None:
        return url, None
    parts.remove(own)
    return "?".join(filter(None, (start, "&".join(parts)))), urllib.parse.unquote(own.partition("=")[2])
