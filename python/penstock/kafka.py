"""`source.kafka`: topics, where to begin, and librdkafka's own settings by their names."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from penstock.units import parse_duration

if TYPE_CHECKING:
    from penstock.connections import KafkaConnection

_SECRET_PARTS = ("password", "passphrase", "secret", "key.pem")
_SECRET_NAMES = ("sasl.oauthbearer.config",)
_SECOND = 1_000_000


def is_secret(name: str) -> bool:
    """Whether the value of a setting of librdkafka is shown nowhere and written nowhere."""
    return name in _SECRET_NAMES or any(part in name for part in _SECRET_PARTS)


def _positive(value: Any) -> int:
    micros = parse_duration(value)
    if micros <= 0:
        raise ValueError("it must be more than nothing")
    return micros


def check_brokers(brokers: str) -> str:
    """See that no name and password stand in the addresses of brokers, which are shown in messages.

    Raises:
        ValueError: They do; nothing of it is repeated.
    """
    if "@" in brokers:
        raise ValueError(
            "an '@' stands in it: a broker is host:port, and its name and password are sasl.username and sasl.password"
        )
    return brokers


def _brokers(value: Any) -> Any:
    value = ",".join(str(part) for part in value) if isinstance(value, list) else value
    return check_brokers(value) if isinstance(value, str) else value


def _start(value: Any) -> Any:
    """`earliest`, `latest`, a time, or offsets by topic and partition."""
    if value in ("earliest", "latest"):
        return value
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day, tzinfo=dt.timezone.utc)
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(
                f"{value!r} is no start: write earliest, latest, a time such as 2024-12-17T00:00:00Z, or offsets by "
                "topic and partition"
            ) from None
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)
        since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
        return {"time": since // dt.timedelta(microseconds=1)}
    if isinstance(value, dict):
        return {"offsets": {str(topic): _offsets(topic, offsets) for topic, offsets in value.items()}}
    raise ValueError("write earliest, latest, a time such as 2024-12-17T00:00:00Z, or offsets by topic and partition")


def _offsets(topic: object, offsets: object) -> dict[str, int]:
    if not isinstance(offsets, dict):
        raise ValueError(f"offsets of topic {topic} are a mapping of partitions, such as {{0: 1500, 1: 1720}}")
    found = {}
    for partition, offset in offsets.items():
        if not str(partition).isdecimal() or isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ValueError(f"topic {topic}: a partition and its offset are whole numbers from 0 on")
        found[str(partition)] = offset
    return found


class KafkaSource(BaseModel):
    """`source.kafka`: topics, and librdkafka's own settings by their names.

    Attributes:
        topics: What is read.
        group: The consumer group that is told how far was read.
        brokers: `host:port`, comma-separated or as a list; a run needs it, from here or from a connection, other
            commands do not.
        start: Where a pipeline without history begins.
        missing_topics: What to do about a topic that is not there: `auto` makes it an error of a run until caught up,
            and lets a run without end wait for it.
        give_up: For so long a cluster that does not answer is waited for, in microseconds.
    """

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    topics: list[str] = Field(min_length=1)
    group: str = Field(min_length=1)
    brokers: Annotated[str, BeforeValidator(_brokers)] = ""
    start: Annotated[Any, BeforeValidator(_start)] = "earliest"
    missing_topics: Literal["auto", "wait", "error"] = "auto"
    give_up: Annotated[int, BeforeValidator(_positive)] = 60 * _SECOND

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for name, value_of in value.items():
            if name in cls.model_fields:
                found[name] = value_of
            else:
                # `--set source.kafka.sasl.password=…` makes mappings of the parts of a name.
                found |= {own: setting(own, text) for own, text in flat(str(name), value_of)}
        return found

    @property
    def own(self) -> dict[str, str]:
        """The settings of librdkafka, without those that are secret."""
        return {name: value for name, value in (self.model_extra or {}).items() if isinstance(value, str)}

    @property
    def secrets(self) -> dict[str, str]:
        """Those of librdkafka's settings that are secret."""
        extra = self.model_extra or {}
        return {name: value.get_secret_value() for name, value in extra.items() if isinstance(value, SecretStr)}

    def over(self, connection: KafkaConnection | None) -> KafkaSource:
        """These settings, and those of a connection where there are none here.

        Who one is, is one thing: with a setting `sasl.…` here, none of the connection's counts; so for certificates.
        """
        extra = self.model_extra or {}
        known = {_identity(name) for name in extra}
        own = connection.own if connection else {}
        taken: dict[str, Any] = {name: value for name, value in own.items() if _identity(name) not in known}
        if not self.brokers.strip():
            taken["brokers"] = connection.brokers if connection else ""
        return self.model_copy(update=taken)

    def spec(self) -> dict[str, Any]:
        """The engine's form, without secrets."""
        return {
            "topics": self.topics,
            "group": self.group,
            "brokers": self.brokers,
            "start": self.start,
            "missing_topics": self.missing_topics,
            "give_up_us": self.give_up,
            "settings": self.own,
        }

    def __repr__(self) -> str:
        return f"KafkaSource(topics={self.topics!r}, group={self.group!r})"

    __str__ = __repr__


def _identity(name: str) -> str:
    """What a setting belongs to: itself, or how a client says who it is."""
    if name.startswith("sasl."):
        return "sasl"
    return "certificate" if name.startswith(("ssl.certificate.", "ssl.key.", "ssl.keystore.")) else name


def flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """A setting of librdkafka, or several where the parts of their names are mappings."""
    if isinstance(value, dict):
        return [pair for part, below in value.items() for pair in flat(f"{name}.{part}", below)]
    return [(name, value)]


def setting(name: str, value: Any) -> str | SecretStr:
    """A setting's value as librdkafka takes it, masked where it is secret.

    Raises:
        ValueError: It is a mapping or another thing that is no value.
    """
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, list):
        value = ",".join(str(part) for part in value)
    elif value is None:
        value = ""
    elif not isinstance(value, (str, int, float)):
        raise ValueError(f"{name}: librdkafka's settings are text, numbers or true and false")
    return SecretStr(str(value)) if is_secret(name) else str(value)
