"""Airflow connections: from whatever form they come in to settings of Penstock. Airflow itself is not needed here.

A connection is taken as Airflow hands it out, as a mapping, as JSON, or as a URI (`postgres://user:password@host/db`),
in the terms of Airflow's own providers, so that one connection serves them and Penstock alike.

What stands in the pipeline file counts before what stands in a connection; only a DuckDB file gives way to a connection
of PostgreSQL. No secret is in a `repr` or a message.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from penstock.errors import SettingsError
from penstock.kafka import KafkaSource, check_brokers, flat, setting
from penstock.nearest import did_you_mean
from penstock.storage import Storage

_SET_BY_PENSTOCK = (
    "auto.commit.enable",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
)
"""What a connection may hold for the sake of others: the pipeline file and the engine say it."""

_LIBPQ = (
    *("application_name", "channel_binding", "client_encoding", "connect_timeout", "fallback_application_name"),
    *("gssdelegation", "gssencmode", "gsslib", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle"),
    *("keepalives_interval", "krbsrvname", "load_balance_hosts", "options", "passfile", "require_auth", "requirepeer"),
    *("service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression"),
    *("sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni"),
    *("target_session_attrs", "tcp_user_timeout"),
)
_OF_THE_HOOK = ("aws_conn_id", "cluster-identifier", "cursor", "enable_log_db_messages", "sqlalchemy_query")
_TOKENS = ("iam", "redshift", "redshift-serverless", "azure_conn_id")


@dataclass(frozen=True)
class AirflowConnection:
    """A connection, in the fields that Airflow has for all types.

    Attributes:
        kind: Its type; empty where it does not say.
        id: Its name, for messages.
        host: The host; also a URL, where the type allows it.
        port: The port.
        schema: The database, or `http` and `https`.
        login: The user.
        password: The password.
        extra: All else.
    """

    kind: str = ""
    id: str = ""
    host: str = field(default="", repr=False)
    port: int | None = None
    schema: str = ""
    login: str = ""
    password: str = field(default="", repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, connection: AirflowConnection | Mapping[str, Any] | str | object) -> AirflowConnection:
        """A connection in any of its forms.

        Raises:
            SettingsError: It is none of them.
        """
        if isinstance(connection, AirflowConnection):
            return connection
        if isinstance(connection, str):
            found = _of_text(connection.strip())
        elif isinstance(connection, Mapping):
            found = dict(connection)
        else:
            names = ("conn_id", "conn_type", "host", "port", "schema", "login", "password", "extra", "extra_dejson")
            found = {name: getattr(connection, name, None) for name in names}
        name = str(found.get("conn_id") or "")
        port = found.get("port")
        if port in (None, ""):
            port = None
        elif not str(port).isdecimal():
            raise _error(name, "its port is no number")
        return cls(
            kind=str(found.get("conn_type") or "").replace("-", "_"),
            id=name,
            host=str(found.get("host") or ""),
            port=None if port is None else int(port),
            schema=str(found.get("schema") or ""),
            login=str(found.get("login") or ""),
            password=str(found.get("password") or ""),
            extra=_extra(found, name),
        )

    def error(self, reason: str) -> SettingsError:
        """What is wrong with it."""
        return _error(self.id, reason)

    def check(self, *kinds: str, what: str) -> None:
        """See that it is of one of these types, where it says its type.

        Raises:
            SettingsError: It is of another.
        """
        if self.kind and self.kind not in kinds:
            raise self.error(f"its type is {self.kind!r}; {what} needs one of type {kinds[0]!r}")

    def number(self) -> str:
        """The port as part of an address."""
        return f":{self.port}" if self.port else ""


@dataclass(frozen=True)
class KafkaConnection:
    """A connection of type `kafka`: where the cluster is, and librdkafka's settings by their names.

    Attributes:
        brokers: `host:port`, comma-separated; empty where it does not say.
        own: The settings; those that are secret are masked.
    """

    brokers: str = ""
    own: Mapping[str, str | SecretStr] = field(default_factory=dict, repr=False)

    @classmethod
    def from_airflow(cls, connection: AirflowConnection | Mapping[str, Any] | str | object) -> KafkaConnection:
        """What an Airflow connection says: its extra holds librdkafka's settings.

        What Penstock sets itself (`group.id`, `auto.offset.reset`, `enable.auto.commit`, …) is left out: it stands
        there for others.

        Raises:
            SettingsError: It is of another type, wants a function to be called, or says what only a pipeline file says.
        """
        found = AirflowConnection.of(connection)
        found.check("kafka", what="Kafka")
        given = dict(pair for name, value in found.extra.items() for pair in flat(str(name), value))
        for name in given:
            if name.endswith("_cb") or name in ("on_commit", "on_delivery"):
                raise found.error(f"{name} is a function, which is not called here; take it out of the connection")
            if name in KafkaSource.model_fields:
                raise found.error(f"{name} is no setting of librdkafka; it belongs in the pipeline file, source.kafka")
        brokers = [given.pop(name, None) for name in ("bootstrap.servers", "metadata.broker.list")]
        hosts = next((host for host in brokers if host), f"{found.host}{found.number()}" if found.host else "")
        if found.login and "sasl.username" not in given:
            given |= {"sasl.username": found.login, "sasl.password": found.password}
        try:
            own = {name: setting(name, value) for name, value in given.items() if name not in _SET_BY_PENSTOCK}
        except ValueError as error:
            raise found.error(str(error)) from None
        mechanism = own.get("sasl.mechanism", own.get("sasl.mechanisms"))
        if mechanism == "OAUTHBEARER" and own.get("sasl.oauthbearer.method") != "oidc":
            raise found.error(
                "OAUTHBEARER without sasl.oauthbearer.method=oidc needs a function for its tokens (as for MSK with "
                "IAM), which is not called here; use oidc, SCRAM or certificates"
            )
        try:
            return cls(check_brokers(",".join(map(str, hosts)) if isinstance(hosts, list) else str(hosts)), own)
        except ValueError as error:
            raise found.error(f"host: {error}") from None


@dataclass(frozen=True)
class PostgresConnection:
    """A connection of type `postgres`.

    Attributes:
        url: What libpq takes; a secret as a whole.
        place: `host:port/database`, which may be shown.
    """

    url: SecretStr
    place: str

    @classmethod
    def from_airflow(cls, connection: AirflowConnection | Mapping[str, Any] | str | object) -> PostgresConnection:
        """What an Airflow connection says; `sslmode` and whatever else libpq knows stand in its extra.

        Raises:
            SettingsError: It is of another type, or wants what cannot be done here.
        """
        found = AirflowConnection.of(connection)
        found.check("postgres", "postgresql", what="PostgreSQL")
        query = {}
        for name, value in found.extra.items():
            if name in _TOKENS and value:
                raise found.error(f"{name}: tokens made by a cloud are not supported; give a user and a password")
            if name in _LIBPQ and value is not None:
                query[name] = str(value).lower() if isinstance(value, bool) else str(value)
            elif name not in (*_LIBPQ, *_TOKENS, *_OF_THE_HOOK) and not name.startswith("sqlalchemy"):
                raise found.error(f"its extra: PostgreSQL has no setting {name!r}; {did_you_mean(name, list(_LIBPQ))}")
        user = urllib.parse.quote(found.login, safe="")
        if found.password:
            user += ":" + urllib.parse.quote(found.password, safe="")
        hosts = found.host.split(",")
        where = f"{','.join(_host(host, found.number()) for host in hosts)}/{urllib.parse.quote(found.schema, safe='')}"
        url = f"postgresql://{user}{'@' if user else ''}{where}"
        if query:
            url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        return cls(SecretStr(url), where)


@dataclass(frozen=True)
class HttpConnection:
    """A connection to a server that speaks HTTP, such as Elasticsearch.

    Attributes:
        url: Its address, without user and password.
        user: The user.
        password: The password.
        api_key: A key in the place of both.
        ca_file: A file with certificates to trust.
    """

    url: str
    user: str | None = None
    password: SecretStr | None = None
    api_key: SecretStr | None = None
    ca_file: str | None = None

    @classmethod
    def from_airflow(cls, connection: AirflowConnection | Mapping[str, Any] | str | object) -> HttpConnection:
        """What an Airflow connection of type `elasticsearch` or `http` says.

        Raises:
            SettingsError: It is of another type, or names no host.
        """
        found = AirflowConnection.of(connection)
        found.check("elasticsearch", "http", "https", what="Elasticsearch")
        url, user, password = _address(found)
        key, file = found.extra.get("api_key"), found.extra.get("ca_certs") or found.extra.get("verify")
        return cls(
            url=url,
            user=user or None,
            password=SecretStr(password) if password else None,
            api_key=SecretStr(str(key)) if key else None,
            ca_file=file if isinstance(file, str) and file.lower() not in ("true", "false") else None,
        )


def slack_webhook(connection: AirflowConnection | Mapping[str, Any] | str | object) -> SecretStr:
    """The address of an incoming webhook of Slack, from a connection of type `slackwebhook` or `http`.

    The password holds what comes after `https://hooks.slack.com/services/`, or all of it.

    Raises:
        SettingsError: It is of another type, or has no token.
    """
    found = AirflowConnection.of(connection)
    found.check("slackwebhook", "http", "https", what="an alert to Slack")
    token = found.password.strip()
    if not token:
        raise found.error("its password is empty; the webhook's token belongs there (T000/B000/XXX)")
    if "://" in token:
        return SecretStr(token)
    base = _address(found)[0] if found.host.strip() else "https://hooks.slack.com/services"
    return SecretStr(f"{base.rstrip('/')}/{token.lstrip('/')}")


@dataclass(frozen=True)
class Connections:
    """What a pipeline is given beside its file.

    Attributes:
        kafka: Where its topics are.
        storage: How its lake's bucket is reached.
        warehouse: Where its tables are.
        slack: The webhook that alerts go to.
        elasticsearch: Where its documents go.
    """

    kafka: KafkaConnection = KafkaConnection()
    storage: Storage = field(default_factory=Storage)
    warehouse: PostgresConnection | None = None
    slack: SecretStr | None = None
    elasticsearch: HttpConnection | None = None

    @classmethod
    def from_airflow(
        cls,
        *,
        kafka: Mapping[str, Any] | str | object | None = None,
        aws: Mapping[str, Any] | str | object | None = None,
        postgres: Mapping[str, Any] | str | object | None = None,
        slack: Mapping[str, Any] | str | object | None = None,
        elasticsearch: Mapping[str, Any] | str | object | None = None,
    ) -> Connections:
        """What Airflow connections say, each in any of its forms.

        Args:
            kafka: One of type `kafka`.
            aws: One of type `aws`.
            postgres: One of type `postgres`.
            slack: One of type `slackwebhook`.
            elasticsearch: One of type `elasticsearch`.

        Raises:
            SettingsError: One is of another type, or holds what cannot be used.
        """
        return cls(
            kafka=KafkaConnection() if kafka is None else KafkaConnection.from_airflow(kafka),
            storage=Storage() if aws is None else Storage.from_airflow(aws),
            warehouse=None if postgres is None else PostgresConnection.from_airflow(postgres),
            slack=None if slack is None else slack_webhook(slack),
            elasticsearch=None if elasticsearch is None else HttpConnection.from_airflow(elasticsearch),
        )


# --- forms ------------------------------------------------------------------------------------------------------------


def _error(name: str, reason: str) -> SettingsError:
    return SettingsError(f"Airflow connection{f' {name!r}' if name else ''}: {reason}")


def _of_text(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError:
            raise _error("", "it is not JSON, and no URI (postgres://…)") from None
    kind, separator, rest = text.partition("://")
    if not separator:
        raise _error("", "write it as JSON or as a URI (kafka://…, postgres://USER:PASSWORD@HOST/DATABASE)")
    # A host may be a URL itself: `http://https://host`.
    protocol = re.match(r"[a-z][a-z0-9+.-]*://", rest)
    try:
        parts = urllib.parse.urlsplit("//" + (rest[protocol.end() :] if protocol else rest))
        port = parts.port
    except ValueError:
        raise _error("", "it is no URI: its host or its port is not right") from None
    extra: dict[str, Any] = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    if "__extra__" in extra:
        extra["__extra__"] = _json(extra["__extra__"], "")
        extra |= extra.pop("__extra__")
    login, password = (urllib.parse.unquote(part) if part else None for part in (parts.username, parts.password))
    host = urllib.parse.unquote(parts.hostname or "")
    return {
        "conn_type": kind,
        "host": f"{protocol[0]}{host}" if protocol and host else host,
        "port": port,
        "schema": urllib.parse.unquote(parts.path.lstrip("/")),
        "login": login,
        "password": password,
        "extra": extra,
    }


def _extra(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Airflow's own reading hides what is secret in its logs, and is empty for what is no JSON.
    extra = found.get("extra_dejson") or found.get("extra") or {}
    if isinstance(extra, str):
        return _json(extra, name)
    if not isinstance(extra, Mapping):
        raise _error(name, "its extra is no mapping")
    return dict(extra)


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        extra = json.loads(text)
    except ValueError:
        raise _error(name, "its extra is not JSON") from None
    if not isinstance(extra, dict):
        raise _error(name, "its extra is no mapping")
    return extra


def _address(found: AirflowConnection) -> tuple[str, str, str]:
    """Address, user and password: a host that is a URL may hold the latter."""
    scheme, _, host = found.host.rpartition("://")
    user, at, host = host.rpartition("@")
    host, _, path = host.partition("/")
    if not host:
        raise found.error("it names no host")
    scheme = scheme or (found.schema if found.schema in ("http", "https") else "http")
    login, _, password = (urllib.parse.unquote(part) for part in user.partition(":"))
    where = f"{scheme}://{host}{found.number()}/{path}".rstrip("/")
    return (where, login, password) if at and not found.login else (where, found.login, found.password)


def _host(host: str, number: str) -> str:
    """A host as it stands in a URI of libpq, with the port that the connection says, where it has none itself."""
    if host.count(":") > 1:
        return (host if host.startswith("[") else f"[{host}]") + ("" if "]:" in host else number)
    return urllib.parse.quote(host, safe=":") + ("" if ":" in host else number)
