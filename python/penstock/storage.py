"""How a bucket is reached: `storage` of a pipeline file, an Airflow connection, and what the environment adds.

Each setting is taken from the first that has it: the pipeline file (with `${ENV}` in it), an Airflow connection that
was handed over, the environment (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, …; read by the engine). Keys are one thing:
access key, secret and token always come from one place together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic import model_validator as checks

from penstock.errors import SettingsError
from penstock.nearest import did_you_mean
from penstock.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Self

    from penstock.connections import AirflowConnection

SECRETS = ("access_key_id", "secret_access_key", "session_token")
"""What never stands in a specification, a plan, a log or a message."""

_LONGEST = 60_000_000


def _bounded(value: int) -> int:
    if not 0 < value <= _LONGEST:
        raise ValueError("it must be more than nothing, and 60s at most")
    return value


def _address(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("it must begin with https:// (or http://, with allow_http: true)")
    if "@" in value.split("/")[2]:
        raise ValueError("it must not hold a user or password; give access_key_id and secret_access_key")
    return value


class Storage(BaseModel):
    """`storage`: how the bucket of an `s3://` lake is reached.

    Attributes:
        endpoint: The server's address; that of AWS unless given.
        region: The bucket's region.
        access_key_id: The name of the key. Take it from the environment, as all three.
        secret_access_key: The key.
        session_token: What temporary keys need besides.
        path_style: Whether the bucket stands in the path (the default) or before the host.
        allow_http: Whether an endpoint with `http://` is taken.
        ca_file: A file with certificates (PEM) to trust beside those of the system.
        anonymous: Requests are not signed: for buckets that everybody may read.
        server_side_encryption: `AES256` or `aws:kms`.
        kms_key_id: The key of `aws:kms`.
        timeout: How long a request may take with all its retries; 60 s at most.
    """

    # Values stay out of pydantic's own messages: they may be secrets.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    endpoint: Annotated[str, AfterValidator(_address)] | None = None
    region: str | None = Field(default=None, min_length=1)
    access_key_id: SecretStr | None = Field(default=None, min_length=1)
    secret_access_key: SecretStr | None = Field(default=None, min_length=1)
    session_token: SecretStr | None = Field(default=None, min_length=1)
    path_style: bool | None = None
    allow_http: bool | None = None
    ca_file: str | None = None
    anonymous: bool | None = None
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    timeout: Annotated[int, BeforeValidator(parse_duration), AfterValidator(_bounded)] | None = None

    @checks(mode="after")
    def _whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together: give both, or none")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token belongs to an access_key_id and a secret_access_key: give all three")
        if self.kms_key_id is not None and self.server_side_encryption != "aws:kms":
            raise ValueError("kms_key_id needs server_side_encryption: aws:kms")
        return self

    @classmethod
    def of(cls, settings: Storage | Mapping[str, Any] | None) -> Storage:
        """Settings as an argument has them: this class, a mapping, or none.

        Raises:
            SettingsError: One is not known, or wrong.
        """
        if isinstance(settings, Storage):
            return settings
        try:
            return cls.model_validate(dict(settings or {}))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(map(str, ("storage", *found["loc"])))
            reason = str(found["msg"]).removeprefix("Value error, ")
            if found["type"] == "extra_forbidden":
                reason = f"there is no such setting; {did_you_mean(str(found['loc'][-1]), list(cls.model_fields))}"
            raise SettingsError(f"{name}: {reason}", name=name) from None

    @classmethod
    def from_airflow(cls, connection: Mapping[str, Any] | str | object) -> Storage:
        """The settings that an Airflow connection of type `aws` holds.

        Args:
            connection: The connection as Airflow hands it out, as a mapping (`login`, `password`, `extra`), as JSON,
                or as a URI (`aws://KEY:SECRET@/?region_name=…`).

        Raises:
            SettingsError: It is no such connection, or it asks for what cannot be done here (`role_arn`).
        """
        from penstock.connections import AirflowConnection

        return cls.of(_from_airflow(AirflowConnection.of(connection)))

    def over(self, other: Storage) -> Storage:
        """These settings, and those of `other` where there are none here; keys are taken as one."""
        whole = self.access_key_id is not None or bool(self.anonymous)
        missing = [name for name in type(self).model_fields if getattr(self, name) is None]
        taken = [name for name in missing if not (whole and name in SECRETS)]
        return self.model_copy(update={name: getattr(other, name) for name in taken})

    def spec(self) -> dict[str, Any]:
        """What the engine is told; nothing in it is secret."""
        told = self.model_dump(exclude_none=True, exclude={*SECRETS, "timeout"})
        return told if self.timeout is None else told | {"timeout_us": self.timeout}

    @property
    def secrets(self) -> dict[str, str]:
        """What goes to the engine beside it."""
        given = {name: getattr(self, name) for name in SECRETS}
        return {name: secret.get_secret_value() for name, secret in given.items() if secret is not None}

    def for_engine(self) -> dict[str, Any]:
        """The keywords of the engine's functions that open a lake."""
        return {"storage": json.dumps(self.spec()), "storage_secrets": self.secrets}


class Spec(dict[str, Any]):
    """A specification for the engine; what is secret travels beside it, in none of its keys and not in its `repr`."""

    storage_secrets: dict[str, str]
    warehouse_secret: str | None
    index_secrets: dict[str, str]
    unset: dict[str, SettingsError]

    def __init__(
        self,
        settings: Mapping[str, Any],
        storage_secrets: Mapping[str, str] | None = None,
        warehouse_secret: str | None = None,
        index_secrets: Mapping[str, str] | None = None,
        unset: Mapping[str, SettingsError] | None = None,
    ) -> None:
        super().__init__(settings)
        self.storage_secrets = dict(storage_secrets or {})
        self.warehouse_secret = warehouse_secret
        self.index_secrets = dict(index_secrets or {})
        # What is said to who needs a part in which a variable is not set.
        self.unset = dict(unset or {})


def need(spec: Mapping[str, Any], part: str) -> None:
    """See that every variable in a part of the pipeline file is set.

    Raises:
        SettingsError: One is not.
    """
    if error := getattr(spec, "unset", {}).get(part):
        raise error


def secrets_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """The secrets that travel with a specification."""
    return dict(getattr(spec, "storage_secrets", {}))


def storage_of(spec: Mapping[str, Any]) -> Storage:
    """How the lake of a specification is reached, keys and all."""
    told = dict(spec.get("storage") or {})
    if "timeout_us" in told:
        told["timeout"] = f"{told.pop('timeout_us')}us"
    return Storage.of(told | secrets_of(spec))


# --- Airflow ----------------------------------------------------------------------------------------------------------


def _from_airflow(connection: AirflowConnection) -> dict[str, Any]:
    connection.check("aws", "s3", what="a lake on S3")
    extra = connection.extra
    role = extra.get("role_arn")
    if role:
        raise connection.error(
            "role_arn is not supported; let the machine have the role, or put temporary keys "
            "(aws_access_key_id, aws_secret_access_key, aws_session_token) into the connection"
        )
    config = extra.get("config_kwargs") or {}
    try:
        config = json.loads(config) if isinstance(config, str) else config
    except ValueError:
        raise connection.error("config_kwargs is not JSON") from None
    style = (config.get("s3") or {}).get("addressing_style")
    service = (
        ((extra.get("service_config") or {}).get("s3") or {}) if isinstance(extra.get("service_config"), dict) else {}
    )
    endpoint = service.get("endpoint_url") or extra.get("endpoint_url") or extra.get("host")
    verify = extra.get("verify")
    found = {
        "access_key_id": connection.login or extra.get("aws_access_key_id"),
        "secret_access_key": connection.password or extra.get("aws_secret_access_key"),
        "session_token": extra.get("aws_session_token"),
        "region": extra.get("region_name") or config.get("region_name"),
        "endpoint": endpoint,
        # Whoever writes http:// into a connection means it.
        "allow_http": True if str(endpoint or "").startswith("http://") else None,
        "path_style": {"path": True, "virtual": False}.get(style) if style else None,
        "anonymous": True if config.get("signature_version") == "unsigned" else None,
        "ca_file": verify if isinstance(verify, str) and verify.lower() not in ("true", "false") else None,
    }
    return {name: value for name, value in found.items() if value not in (None, "")}
