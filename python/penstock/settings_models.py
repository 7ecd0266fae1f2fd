"""What may stand in a pipeline file: one class a key, checked by pydantic.

Every command that takes a pipeline waits for these classes. Hence annotations are no text, which pydantic would compile
and evaluate one by one, and defaults are values, which it copies: for `default_factory=list` it reads the signature
of `list` from its description, and takes 2 ms to get ready for that.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from penstock.files import FilesSource
from penstock.index_settings import IndexSettings
from penstock.kafka import KafkaSource
from penstock.postgres import Postgres, from_text
from penstock.storage import Storage
from penstock.transform import check_name, column_kind
from penstock.units import parse_duration, parse_size

if TYPE_CHECKING:
    from typing_extensions import Self


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("it must be more than nothing")
    return value


Duration = Annotated[int, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[int, BeforeValidator(parse_duration), AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(parse_size), AfterValidator(_positive)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _column_type(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(
            f"{text!r} is no column type; write text, integer, number, boolean, timestamp or decimal(12, 2)"
        )
    column_kind(text)
    return text.strip()


_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE


class _Model(BaseModel):
    # Values stay out of pydantic's own messages: they may be secrets.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Source(_Model):
    """`source`: one of `files` and `kafka`."""

    files: FilesSource | None = None
    kafka: KafkaSource | None = None
    keyed_by: Literal["entity"] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Self":
        if (self.files is None) == (self.kafka is None):
            raise ValueError("name one source: files or kafka")
        return self


class Watermark(_Model):
    """`watermark`: how far event time is taken to have come."""

    lateness: Duration = 10 * _MINUTE
    idle_timeout: Duration = 30_000_000
    max_future_skew: Duration = 5 * _MINUTE


class Deduplicate(_Model):
    """`deduplicate`: for how long of event time a key is remembered."""

    horizon: Duration = 24 * _HOUR


class Sessions(_Model):
    """`sessions`: the longest pause inside one, and the longest one."""

    gap: PositiveDuration = 30 * _MINUTE
    max_duration: PositiveDuration | None = None

    def spec(self) -> dict[str, Any]:
        """The engine's form."""
        return {"gap_us": self.gap, "max_duration_us": self.max_duration}


class Window(_Model):
    """One entry of `windows`."""

    name: Name
    size: PositiveDuration
    slide: PositiveDuration | None = None
    by: list[str] = []
    from_: list[str] = Field(default=[], alias="from")
    mode: Literal["append", "update"] = "append"
    to: list[str] = []
    aggregates: dict[str, str] = Field(min_length=1)

    def spec(self) -> dict[str, Any]:
        """The engine's form."""
        return {
            "name": self.name,
            "size_us": self.size,
            "slide_us": self.slide,
            "by": self.by,
            "from": self.from_,
            "mode": self.mode,
            "to": self.to,
            "aggregates": [[name, what] for name, what in self.aggregates.items()],
        }


class Epoch(_Model):
    """`epoch`: how much goes into one commit."""

    max_events: int = Field(default=250_000, gt=0)
    max_bytes: Size = 256 * 2**20
    max_wait: Duration = 30_000_000
    tick: PositiveDuration = 100_000


class Limits(_Model):
    """`limits`: the largest and deepest event, and whether `format` is checked."""

    max_bytes: Size = 2**20
    max_depth: int = Field(default=64, gt=0, le=1_000)
    assert_formats: bool = True


def _some_secret(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("it is empty: without a key anybody can look up what was hashed. Is the variable set?")
    return secret


class Pii(_Model):
    """`pii`: the key for properties marked `x-penstock-pii: hash`. Take it from the environment."""

    secret: Annotated[SecretStr, AfterValidator(_some_secret)]


class TransformSettings(_Model):
    """`transform`: a function of one's own over the valid rows, and the columns that it adds or gives another type."""

    function: Annotated[str, AfterValidator(check_name)]
    columns: dict[Annotated[str, Field(min_length=1)], Annotated[str, BeforeValidator(_column_type)]] = {}


def _transform(value: Any) -> Any:
    return {"function": value} if isinstance(value, str) else value


class Warehouse(_Model):
    """`warehouse`: one of `duckdb` (a file) and `postgres` (a URL, or a mapping with `url` and more), and who fills it.

    `fill: load`: `penstock load`. `fill: epoch`: the run itself, each epoch before its commit.
    """

    duckdb: str | None = None
    postgres: Annotated[Postgres | None, BeforeValidator(from_text)] = None
    fill: Literal["load", "epoch"] = "load"

    @model_validator(mode="after")
    def _one(self) -> "Self":
        if (self.duckdb is None) == (self.postgres is None):
            raise ValueError("name one warehouse: duckdb or postgres")
        return self


class Retention(_Model):
    """`retention`: how long files of a layer are kept, from the end of their partition's day; for ever unless given."""

    bronze: PositiveDuration | None = None
    silver: PositiveDuration | None = None
    dead_letters: PositiveDuration | None = None
    gold: PositiveDuration | None = None

    def kept(self) -> dict[str, int]:
        """In microseconds, what is not kept for ever."""
        return {name: value for name, value in self if value is not None}


class Settings(_Model):
    """A pipeline file."""

    name: Name
    contract: str | dict[str, Any]
    source: Source
    lake: str = Field(min_length=1)
    storage: Storage = Storage()
    layers: list[Literal["bronze", "silver"]] = Field(default=["bronze", "silver"], min_length=1)
    watermark: Watermark = Watermark()
    deduplicate: Deduplicate = Deduplicate()
    sessions: Sessions | None = None
    windows: list[Window] = []
    epoch: Epoch = Epoch()
    durability: Literal["disk", "process"] = "disk"
    memory: Size = 2**30
    limits: Limits = Limits()
    pii: Pii | None = None
    retention: Retention = Retention()
    transform: Annotated[TransformSettings | None, BeforeValidator(_transform)] = None
    warehouse: Warehouse | None = None
    index: IndexSettings = IndexSettings()
