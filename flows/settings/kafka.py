"""The configuration of Kafka: the `[kafka]` table, and its secrets in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from connectors.errors import ConfigurationError
from flows.settings.errors import toml_repr
from flows.settings.values import Between, CrossTableError, Table, host_and_port, path_text, refuse_cross_table_error

if TYPE_CHECKING:
    from connectors.kafka.connection import KafkaConnection

__all__ = ["PASSWORD", "USERNAME", "KafkaSettings", "TopicName", "kafka_connection", "require_brokers", "topic_name"]

USERNAME: Final = "KAFKA_USERNAME"
PASSWORD: Final = "KAFKA_PASSWORD"  # noqa: S105 - the name of the variable
RESULTS: Final = ("windows", "groups", "alerts")


def topic_name(value: str) -> str:
    """Return the name of a Kafka topic. Raise ValueError for a text that cannot be one, or has over 100 characters."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value) or value in (".", ".."):
        raise ValueError(f"must be the name of a topic of 1 to 100 letters, digits and . _ -, not {toml_repr(value)}")
    return value


TopicName = Annotated[str, AfterValidator(topic_name)]
File = Annotated[Path, Field(strict=False), BeforeValidator(path_text)]


class KafkaSettings(Table):
    """`[kafka]`: the cluster that feeds of kind `kafka` read, and the topics that results are written to."""

    brokers: Annotated[
        tuple[Annotated[str, AfterValidator(host_and_port)], ...],
        Field(strict=False),
        BeforeValidator(refuse_cross_table_error),
    ] = Field(default=(), description="brokers to ask for the cluster, each as `host:port` (extra `kafka`)")
    tls: bool = Field(default=False, description="use TLS")
    tls_ca: File | None = Field(
        default=None, description="authorities that sign the brokers' certificates (PEM); unset: those of the system"
    )
    tls_cert: File | None = Field(
        default=None, description="certificate of this client (PEM), if the brokers ask for it"
    )
    tls_key: Annotated[File | None, Field(validate_default=True)] = Field(
        default=None, description="private key of the certificate (PEM)"
    )
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None,
        description="log in with this mechanism; `KAFKA_USERNAME` and `KAFKA_PASSWORD` in the environment are used",
    )
    windows_topic: TopicName | None = Field(default=None, description="topic that windows are written to; unset: none")
    groups_topic: TopicName | None = Field(
        default=None, description="topic that windows of groups are written to; unset: none"
    )
    alerts_topic: TopicName | None = Field(default=None, description="topic that alerts are written to; unset: none")
    spool_mib: Annotated[int, AfterValidator(Between(1, 1_048_576))] = Field(
        default=1024,
        description="what the lines that wait for a topic may take on the disk, in MiB for each topic; further lines "
        "are left out of the topic while they do",
    )

    @field_validator("tls_ca", "tls_cert", "tls_key")
    @classmethod
    def _of_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and not info.data.get("tls", True):
            raise ValueError("is of no use without tls = true")
        return value

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, tls_key: Path | None, info: ValidationInfo) -> Path | None:
        if (tls_key is None) != (info.data.get("tls_cert", tls_key) is None):
            raise ValueError("tls_cert and tls_key belong together; one of them is missing")
        return tls_key

    @property
    def topics(self) -> dict[str, str]:
        """Return the topics of results by what is written to them: `windows`, `groups`, `alerts`."""
        named = {name: getattr(self, f"{name}_topic") for name in RESULTS}
        return {name: topic for name, topic in named.items() if topic is not None}


def require_brokers(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables, with a mistake where something uses Kafka and no broker is named."""
    kafka, feeds = tables.get("kafka", {}), tables.get("feed", [])
    if not isinstance(kafka, Mapping) or not isinstance(feeds, list) or kafka.get("brokers"):
        return dict(tables)
    users = [f"{name}_topic" for name in RESULTS if kafka.get(f"{name}_topic") is not None]
    users += ["a feed of kind kafka" for feed in feeds if isinstance(feed, Mapping) and feed.get("kind") == "kafka"]
    if not users:
        return dict(tables)
    return {**tables, "kafka": {**kafka, "brokers": CrossTableError(f"must name a broker: {users[0]} needs one")}}


def kafka_connection(settings: KafkaSettings, environ: Mapping[str, str]) -> KafkaConnection | None:
    """Return how to reach the cluster, None without brokers.

    Raise ConfigurationError for a secret that is not set, or a file that cannot be read.
    """
    if not settings.brokers:
        return None
    from connectors.kafka.connection import KafkaConnection

    mistakes = [f"{name} is not set in the environment" for name in (USERNAME, PASSWORD) if not environ.get(name)]
    if settings.sasl is None:
        mistakes = []
    for key in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(settings, key)
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            mistakes.append(f"{key}: {path}: {error.strerror}")
    if mistakes:
        raise ConfigurationError("kafka", mistakes)
    login = {"username": environ[USERNAME], "password": environ[PASSWORD]} if settings.sasl else {}
    return KafkaConnection(
        settings.brokers,
        tls=settings.tls,
        ca=settings.tls_ca,
        cert=settings.tls_cert,
        key=settings.tls_key,
        sasl=settings.sasl,
        **login,
    )
