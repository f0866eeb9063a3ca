"""How to reach a Kafka cluster: brokers, TLS and SASL, as the settings of librdkafka."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from connectors.errors import UsageError

__all__ = ["KafkaConnection", "check_confluent_kafka", "describe", "topic_problem"]

_SILENT: Final = logging.Logger("librdkafka-silenced", level=logging.CRITICAL + 1)
_ADVICE: Final = {
    "_ALL_BROKERS_DOWN": "no broker can be reached",
    "_TRANSPORT": "no broker can be reached",
    "_TIMED_OUT": "no broker answered in time",
    "_MSG_TIMED_OUT": "no broker answered in time",
    "_RESOLVE": "the name of a broker is unknown",
    "_SSL": "TLS failed; check kafka.tls, kafka.tls_ca and the brokers' certificates",
    "_INVALID_ARG": "the client cannot be set up; check kafka.tls_ca, kafka.tls_cert and kafka.tls_key",
    "_AUTHENTICATION": "the brokers refused the user name or password",
    "SASL_AUTHENTICATION_FAILED": "the brokers refused the user name or password",
    "TOPIC_AUTHORIZATION_FAILED": "the user may not use the topic; it needs an ACL",
    "GROUP_AUTHORIZATION_FAILED": "the user may not use the consumer group; it needs an ACL",
    "UNKNOWN_TOPIC_OR_PART": "the topic does not exist; create it",
    "_UNKNOWN_TOPIC": "the topic does not exist; create it",
    "_UNKNOWN_PARTITION": "the topic does not exist; create it",
}


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """A cluster: `brokers` as `host:port`. With `tls`, `ca` are the accepted authorities, None for the system's, and
    `cert` and `key` the client's own files. With `sasl`, the mechanism, `username` and `password` are used.
    """

    brokers: tuple[str, ...]
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    sasl: str | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a client of librdkafka, with `more`, whose names have `_` for a dot.

        Nothing is logged by the library: what matters is raised, or given to `error_cb`.
        """
        protocol = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")
        files = {"ssl.ca.location": self.ca, "ssl.certificate.location": self.cert, "ssl.key.location": self.key}
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": "voicewatch",
            "security.protocol": protocol,
            "allow.auto.create.topics": False,
            "reconnect.backoff.max.ms": 5_000,
            "logger": _SILENT,
            **{name: str(path) for name, path in files.items() if self.tls and path is not None},
            **{name if name == "error_cb" else name.replace("_", "."): value for name, value in more.items()},
        }
        if self.sasl:
            settings |= {"sasl.mechanism": self.sasl, "sasl.username": self.username, "sasl.password": self.password}
        return settings


def check_confluent_kafka() -> None:
    """Raise UsageError if confluent-kafka is not installed."""
    if importlib.util.find_spec("confluent_kafka") is None:
        raise UsageError("[kafka] needs confluent-kafka, which is not installed: pip install 'voicewatch[kafka]'")


def describe(error: Any) -> str:
    """Describe an error of confluent-kafka in a few words, without what it quotes."""
    kafka = error.args[0] if isinstance(error, Exception) else error
    return f"Kafka: {_ADVICE.get(kafka.name(), 'an error')} ({kafka.name()})"


def topic_problem(connection: KafkaConnection, topic: str, timeout_s: float) -> str | None:
    """Ask the cluster for a topic; return what is wrong with it in a few words, None if it can be used."""
    import confluent_kafka

    try:
        found = confluent_kafka.Producer(connection.settings()).list_topics(topic, timeout=timeout_s).topics[topic]
    except confluent_kafka.KafkaException as error:
        return describe(error)
    return None if found.error is None else describe(found.error)
