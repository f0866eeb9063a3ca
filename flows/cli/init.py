"""`voicewatch init`: ask for what is needed, or take it as options, and write a configuration."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connectors.errors import UsageError
from flows.cli.common import CONFIG_VARIABLE, KINDS, Command, kind_option

if TYPE_CHECKING:
    from flows.commands.init import Answers

__all__ = ["app"]

app = typer.Typer()

Conversations = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID",
        help="A conversation to watch; may be given several times. Without any, voice-events finds them.",
    ),
]
Queues = Annotated[
    list[str] | None,
    typer.Option(metavar="QUEUE", help="Kind notifications: a queue, by name or id; may be given several times."),
]
QueueUrl = Annotated[
    str, typer.Option(metavar="URL", help="Kind eventbridge: the SQS queue to read, in place of --listen.")
]

FeedKind = Annotated[str, kind_option((*KINDS, "kafka"))]
Brokers = Annotated[
    list[str] | None, typer.Option(metavar="HOST:PORT", help="Kind kafka: a broker; may be given several times.")
]
Address = Annotated[str, typer.Option(metavar="SIP", help="Kind voice-events: where Genesys sends the media.")]
Topic = Annotated[str, typer.Option(metavar="TOPIC", help="Kind kafka: the topic to read.")]

_LISTS = ("conversations", "queues", "brokers")


@app.command(cls=Command)
def init(
    config: Annotated[
        Path, typer.Argument(metavar="[CONFIG]", envvar=CONFIG_VARIABLE, help="The file to write; it must not exist.")
    ] = Path("voicewatch.toml"),
    *,
    kind: FeedKind = "",
    callback_url: Annotated[str, typer.Option(metavar="URL", help="Where alerts are posted.")] = "",
    base_url: Annotated[str, typer.Option(metavar="URL", help="The API host of your region.")] = "",
    interceptor_address: Address = "",
    conversation: Conversations = None,
    queue: Queues = None,
    api_key: Annotated[str, typer.Option(metavar="KEY", help="Kind audiohook: the API key of the integration.")] = "",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Kinds audiohook and eventbridge: the address to listen on.")
    ] = "",
    queue_url: QueueUrl = "",
    broker: Brokers = None,
    topic: Topic = "",
    state_dir: Annotated[str, typer.Option(metavar="DIR", help="Journal, outbox and audit log go here.")] = "",
) -> None:
    """Write a commented configuration: asks on a terminal, takes options elsewhere; checks it, overwrites nothing."""
    if config.exists():
        raise UsageError(f"{config} exists; name another file, or move it away")
    from flows.commands.init import Answers

    is_asked = sys.stdin.isatty()
    kind = _kind(kind, is_asked=is_asked)
    given = Answers(
        kind=kind,
        callback_url=callback_url,
        base_url=base_url,
        interceptor_address=interceptor_address,
        conversations=tuple(conversation or ()),
        queues=tuple(queue or ()),
        api_key=api_key,
        listen=listen,
        queue_url=queue_url,
        brokers=tuple(broker or ()),
        topic=topic,
        state_dir=state_dir,
    )
    _write(config, _asked(given) if is_asked else _assumed(given))


def _kind(kind: str, *, is_asked: bool) -> str:
    """Return the kind of feed, asked for if it is not given. Raise UsageError for an unknown or missing one."""
    from flows.commands.init import FEED_KINDS

    if not kind and is_asked:
        kind = typer.prompt(f"Kind of feed ({', '.join(FEED_KINDS)})", default=FEED_KINDS[0])
    if kind not in FEED_KINDS:
        raise UsageError(f"--kind {kind}: must be one of {', '.join(FEED_KINDS)}" if kind else "--kind is missing")
    return kind


def _write(config: Path, answers: Answers) -> None:
    """Write the configuration, and print what is doubtful in it and what to do next."""
    from flows.commands.init import variables_of, write_configuration
    from flows.settings.warnings import warnings_of

    settings = write_configuration(config, answers, os.environ)
    print(f"{config}: written, valid; a feed of kind {answers.kind}")
    for warning in warnings_of(settings):
        print(f"warning: {warning}")
    print("Set these variables, then try it:")
    for name, meaning in variables_of(answers).items():
        print(f"  {name}  ({meaning})")
    print(f"  voicewatch check --online {config}\n  voicewatch run {config}")


def _asked(answers: Answers) -> Answers:
    """Return the answers with those that the operator gives to the open questions."""
    from flows.commands.init import questions

    for question in questions(answers):
        text = typer.prompt(question.text, default=question.default, show_default=bool(question.default)).strip()
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        changes: dict[str, Any] = {question.name: parts if question.name in _LISTS else text}
        answers = replace(answers, **changes)
    return answers


def _assumed(answers: Answers) -> Answers:
    """Return the answers with defaults for the open questions. Raise UsageError for those that have none."""
    from flows.commands.init import questions

    asked = list(questions(answers))
    if missing := [question.option for question in asked if question.default is None]:
        raise UsageError(f"{', '.join(missing)}: must be given where there is no terminal to ask on")
    changes: dict[str, Any] = {question.name: question.default for question in asked if question.default}
    return replace(answers, **changes)
