"""`index`: where documents go, and who asks.

The address of a server is read here, so that no message shows a password.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, model_validator

from penstock.errors import SettingsError
from penstock.units import parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from penstock.connections import HttpConnection

KEEP = "400d"
"""How long a month is kept from its end, unless told."""

FORM = "https://host:9200"
"""How an address is written; stands in messages."""


def split(url: str) -> tuple[str, str, int, str, str]:
    """Scheme, host, port, path, and `user:password` of an address.

    Raises:
        SettingsError: It is none; nothing of it is shown, as it may hold a password.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise SettingsError(f"elasticsearch: this is no address; write {FORM}", name="index.elasticsearch") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or " " in url:
        raise SettingsError(f"elasticsearch: this is no address; write {FORM}", name="index.elasticsearch")
    login = ""
    if parts.username is not None:
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    # What Elasticsearch's own clients take where no port is named is 9200; a browser's is meant by nobody.
    return parts.scheme, parts.hostname, port or 9200, parts.path.rstrip("/"), login


def place_of(url: str) -> str:
    """What to call a server in messages; no user and no password."""
    scheme, host, port, path, _ = split(url)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def _address(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().strip():
        raise ValueError("it is empty. Is the variable set?")
    try:
        place_of(url.get_secret_value())
    except SettingsError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return url


def _keep(value: str) -> str:
    if value != "forever":
        parse_duration(value)
    return value


class IndexSettings(BaseModel):
    """`index`: where documents go, one of `elasticsearch` (an address) and `file`, and for how long they are kept.

    Attributes:
        elasticsearch: The server's address.
        file: A file, in the place of a server.
        user: Who asks.
        password: The password.
        api_key: A key in the place of both.
        ca_file: A file with the certificates to trust.
        keep: How long a month is kept from its end; `forever` for no end.
    """

    # Values stay out of pydantic's own messages: they may be secrets.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    elasticsearch: Annotated[SecretStr, AfterValidator(_address)] | None = None
    file: str | None = None
    user: str | None = None
    password: SecretStr | None = None
    api_key: SecretStr | None = None
    ca_file: str | None = None
    keep: Annotated[str, BeforeValidator(_keep)] = KEEP

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.elasticsearch is not None and self.file is not None:
            raise ValueError("name one place: elasticsearch or file")
        return self

    def over(self, connection: HttpConnection | None) -> IndexSettings:
        """These, and what a connection says where these name no place."""
        if connection is None or self.elasticsearch is not None or self.file is not None:
            return self
        told = {
            "elasticsearch": SecretStr(connection.url),
            "user": connection.user,
            "password": connection.password,
            "api_key": connection.api_key,
            "ca_file": connection.ca_file,
        }
        return self.model_copy(update=told)

    def spec(self, base: Path) -> dict[str, Any] | None:
        """What a specification says of it; nothing in it is secret. None where it names no place."""
        if self.file is not None:
            return {"file": str((base / self.file).absolute()), "keep": self.keep}
        if self.elasticsearch is None:
            return None
        place = place_of(self.elasticsearch.get_secret_value())
        return {"elasticsearch": place, "user": self.user, "ca_file": self.ca_file, "keep": self.keep}

    @property
    def secrets(self) -> dict[str, str]:
        """What travels beside a specification."""
        named = {"url": self.elasticsearch, "password": self.password, "api_key": self.api_key}
        return {name: value.get_secret_value() for name, value in named.items() if value is not None}
