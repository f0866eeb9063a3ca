"""`voicewatch init`: write a commented configuration for a kind of feed, once it is known to be valid."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel

from connectors.errors import UsageError
from connectors.state.files import state_errors
from flows.settings.feeds import WITHOUT_CLIENT, FeedSettings
from flows.settings.interceptors import InterceptorSettings
from flows.settings.kafka import PASSWORD, USERNAME
from flows.settings.loading import parse_settings
from flows.settings.models import Settings

__all__ = [
    "FEED_KINDS",
    "Answers",
    "Question",
    "configuration_text",
    "questions",
    "variables_of",
    "write_configuration",
]

# Genesys, or AWS, connects to these feeds.
LISTENING: Final = ("audiohook", "eventbridge")
KEY_VARIABLE: Final = "EVENTBRIDGE_API_KEY"
FEED_KINDS: Final[tuple[str, ...]] = get_args(FeedSettings.model_fields["kind"].annotation)
WIDTH: Final = 100


@dataclass(frozen=True)
class Answers:
    """What a configuration is written for; an empty text or tuple is not answered.

    Without `conversations`, a feed of voice events discovers the calls. `queues` are for notifications, `api_key` is
    for AudioHook, `listen` for AudioHook and EventBridge, `queue_url` for EventBridge in place of `listen`,
    `brokers` and `topic` for Kafka.
    """

    kind: str
    callback_url: str = ""
    base_url: str = ""
    interceptor_address: str = ""
    conversations: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    api_key: str = ""
    listen: str = ""
    queue_url: str = ""
    brokers: tuple[str, ...] = ()
    topic: str = ""
    state_dir: str = ""


class Question(NamedTuple):
    """What is still to be answered: the field of Answers, its option, the question, and what Enter answers."""

    name: str
    option: str
    text: str
    default: str | None


def questions(answers: Answers) -> Iterator[Question]:
    """Yield what is not answered and matters for the kind; a question without a default must be answered."""
    asked = [Question("callback_url", "--callback-url", "URL that alerts are posted to", None)]
    if answers.kind not in WITHOUT_CLIENT:
        asked.append(Question("base_url", "--base-url", "API host of your region", "https://api.mypurecloud.com"))
    if answers.kind == "voice-events":
        text = "SIP address that Genesys sends the media to"
        asked.append(Question("interceptor_address", "--interceptor-address", text, None))
        text = "Conversations to watch, separated by commas (none: all that are found)"
        asked.append(Question("conversations", "--conversation", text, ""))
    elif answers.kind == "notifications" and not answers.conversations:
        asked.append(Question("queues", "--queue", "Queues to watch, by name or id, separated by commas", None))
    elif answers.kind == "kafka":
        asked.append(Question("brokers", "--broker", "Kafka brokers as host:port, separated by commas", None))
        asked.append(Question("topic", "--topic", "Topic that frames are read from", None))
    elif answers.kind == "audiohook":
        asked.append(Question("api_key", "--api-key", "API key of the AudioHook integration", None))
    if answers.kind in LISTENING and not answers.queue_url:
        asked.append(Question("listen", "--listen", "Address that Genesys or EventBridge connects to", "0.0.0.0:8443"))
    asked.append(Question("state_dir", "--state-dir", "Directory of journal, outbox and audit log", "state"))
    return (question for question in asked if not getattr(answers, question.name))


def variables_of(answers: Answers) -> dict[str, str]:
    """Return the environment variables that a run needs or should have, each with what belongs in it."""
    signing = {"VOICEWATCH_CALLBACK_SECRET": "signs callbacks: whsec_ and base64 of 24 to 64 random bytes"}
    if answers.kind == "audiohook":
        secret = f"{answers.api_key}=BASE64, the client secret of the integration"
        return {"VOICEWATCH_AUDIOHOOK_SECRETS": secret, **signing}
    if answers.kind == "eventbridge" and answers.queue_url:
        return {"AWS_PROFILE": "or another way in which AWS' own tools find credentials", **signing}
    if answers.kind == "eventbridge":
        return {KEY_VARIABLE: "the API key of the connection in EventBridge, at least 16 characters", **signing}
    if answers.kind == "kafka":
        return {USERNAME: "if the brokers ask for a login: set kafka.sasl, too", PASSWORD: "its password", **signing}
    client = {"GENESYS_CLIENT_ID": "OAuth client, grant type client credentials", "GENESYS_CLIENT_SECRET": "its secret"}
    return {**client, **signing}


def write_configuration(path: Path, answers: Answers, environ: Mapping[str, str]) -> Settings:
    """Write the configuration to a new file and return its settings.

    Raise UsageError if the file exists, ConfigurationError, with nothing written, for answers that are not valid.
    """
    text = configuration_text(answers)
    settings = parse_settings(tomllib.loads(text), str(path), environ)
    with state_errors(f"writing {path}"):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise UsageError(f"{path} exists; name another file, or move it away") from None
    return settings


def configuration_text(answers: Answers) -> str:
    """Return the configuration: what was answered, and the keys that are often changed as comments."""
    lines = [
        f"# voicewatch: watches calls by a feed of kind {answers.kind}.",
        "# A key behind a # is not set; its default is shown if it has one. `voicewatch schema config` lists all keys.",
        "",
    ]
    for header, values, often in _tables(answers):
        lines += _table(header, values, often)
    return "\n".join(lines)


Table = tuple[str, dict[str, Any], tuple[str, ...]]


def _tables(answers: Answers) -> Iterator[Table]:
    """Yield the tables: header, what is set, and the keys that are shown as comments."""
    if answers.kind not in WITHOUT_CLIENT:
        yield "[genesys]", _set(base_url=answers.base_url), ("max_concurrent",)
    yield from _feed_tables(answers)
    defaults = _set(qa_callback_url=answers.callback_url)
    if answers.kind == "voice-events":
        defaults |= _set(interceptor_address=answers.interceptor_address)
    yield "[defaults]", defaults, ("max_latency_ms", "packet_loss_threshold")
    yield "[alerts]", {}, ("policy", "raise_n", "raise_m", "clear_after_s")
    yield "[delivery]", {}, ("allow_private_addresses", "expire_after_s")
    yield "[state]", _set(dir=answers.state_dir), ("keep_hours",)
    yield "[web]", {}, ("listen",)
    if answers.kind == "voice-events":
        for conversation_id in answers.conversations:
            yield "[[interceptor]]", {"conversation_id": conversation_id, "leg_id": conversation_id}, ()


def _feed_tables(answers: Answers) -> Iterator[Table]:
    feed: dict[str, Any] = {"kind": answers.kind}
    if answers.kind == "voice-events":
        yield "[[feed]]", feed, ()
        mode = "listed" if answers.conversations else "discover"
        yield "[watch]", {"mode": mode}, ("sample", "max") if mode == "discover" else ()
        return
    if answers.kind == "notifications":
        feed |= _set(queues=answers.queues, conversations=answers.conversations)
        yield "[[feed]]", feed, ("enrich",)
        return
    if answers.kind == "eventbridge" and answers.queue_url:
        yield "[[feed]]", feed | _set(queue_url=answers.queue_url), ()
        return
    if answers.kind == "eventbridge":
        feed |= _set(listen=answers.listen, key_env=KEY_VARIABLE)
        yield "[[feed]]", feed, ("path", "header", "tls_cert", "tls_key")
        return
    if answers.kind == "kafka":
        yield "[kafka]", _set(brokers=answers.brokers), ("tls", "sasl", "windows_topic", "groups_topic", "alerts_topic")
        yield "[[feed]]", feed | _set(topic=answers.topic), ("group", "start")
        return
    yield "[[feed]]", feed, ()
    if answers.kind == "audiohook":
        yield (
            "[audiohook]",
            _set(listen=answers.listen, api_keys=[answers.api_key] if answers.api_key else []),
            (
                "path",
                "tls_cert",
                "tls_key",
            ),
        )


def _set(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _table(header: str, values: Mapping[str, Any], often: Sequence[str]) -> list[str]:
    model = _model_of(header)
    lines = [header]
    for key in (*values, *(key for key in often if key not in values)):
        field = model.model_fields[key]
        lines += textwrap.wrap(field.description or "", WIDTH, initial_indent="# ", subsequent_indent="# ")
        if key in values:
            lines.append(f"{key} = {_toml(values[key])}")
        else:
            default = field.get_default()
            lines.append(f"# {key} = {'' if default is None else _toml(default)}".rstrip())
    return [*lines, ""]


def _model_of(header: str) -> type[BaseModel]:
    if header == "[[interceptor]]":
        return InterceptorSettings
    if header == "[[feed]]":
        return FeedSettings
    annotation = Settings.model_fields[header.strip("[]")].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _toml(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)
