"""`voicewatch check --online`: try the token and the load check, and look up queues, users and topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from connectors.errors import AccessDeniedError
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import GenesysClient
from connectors.genesys.credentials import credentials_from_environment
from connectors.genesys.interceptors import GenesysPlatform
from connectors.genesys.names import PERMISSIONS, look_up_names
from flows.feeds import endpoints_of
from flows.settings.kafka import kafka_connection
from flows.settings.models import Settings
from flows.settings.secrets import uses_client

__all__ = ["Online", "check_online"]

TOPIC_S: Final = 10.0
_NO_ONE: Final = "00000000-0000-4000-8000-000000000000"


class Online(NamedTuple):
    """Hold the result in one line, and a line for each thing that a run could not do."""

    said: str
    problems: list[str]


def check_online(settings: Settings, environ: Mapping[str, str]) -> Online:
    """Try the token, the load check if interceptors are used, and look up what the feeds name. Raises GenesysError."""
    kafka = _look_up_topics(settings, environ)
    if not uses_client(settings):
        said = "online: nothing to try, Genesys connects to the feeds" if kafka is None else f"online: {kafka.said}"
        return Online(said, [] if kafka is None else kafka.problems)
    endpoints = endpoints_of(settings)
    tokens = TokenProvider(endpoints, credentials_from_environment(environ))
    client = GenesysClient(endpoints, tokens)
    if not settings.uses_interceptors:
        tokens.token()
        said = "online: token received"
    else:
        platform = GenesysPlatform(GenesysClient(endpoints, tokens, sdk=True))
        allowed = settings.genesys.max_concurrent
        active = platform.check_load(allowed)
        said = f"online: token received, {active} active voice conversation(s), {allowed} allowed"
    known, problems = _look_up_sources(settings, client)
    if known:
        said += f", {known} queue(s) and user(s) found"
    if kafka is not None:
        said, problems = f"{said}, {kafka.said}", problems + kafka.problems
    return Online(said, problems + _look_up_calls(settings, client) + _look_up_kinds(settings, client))


def _look_up_topics(settings: Settings, environ: Mapping[str, str]) -> Online | None:
    """Ask the Kafka cluster for each topic of the configuration; None if there is none."""
    connection = kafka_connection(settings.kafka, environ)
    topics = {row.topic for row in settings.feeds if row.topic is not None} | {*settings.kafka.topics.values()}
    if connection is None or not topics:
        return None
    from connectors.kafka.connection import check_confluent_kafka, topic_problem

    check_confluent_kafka()
    found = {topic: topic_problem(connection, topic, TOPIC_S) for topic in sorted(topics)}
    problems = [f'topic "{topic}": {problem}' for topic, problem in found.items() if problem is not None]
    return Online(f"{len(found) - len(problems)} of {len(found)} Kafka topic(s) found", problems)


def _look_up_sources(settings: Settings, client: GenesysClient) -> tuple[int, list[str]]:
    """Return how many of the queues and users of the feeds exist, and a line for each that does not."""
    from connectors.genesys.feeds.notifications.discovery import Directory

    directory = Directory(client)
    problems: list[str] = []
    known = 0
    for feed in settings.feeds:
        for kind, label, entries in (("queue", "queue", feed.queues), ("user", "agent", feed.users)):
            for entry in entries:
                try:
                    if directory.knows(kind, entry):
                        known += 1
                    else:
                        problems.append(f'feed "{feed.name}": {kind} "{entry}" is unknown to Genesys')
                except AccessDeniedError:
                    problems.append(_not_permitted(f'feed "{feed.name}": {kind}s', label))
                    break  # and neither can the others be looked up
    return known, problems


def _look_up_calls(settings: Settings, client: GenesysClient) -> list[str]:
    """Return a line for each query about calls that a feed needs to find them and this client must not make."""
    from connectors.genesys.feeds.notifications.discovery import Directory

    feeds = [feed for feed in settings.feeds if feed.kind == "notifications" and (feed.queues or feed.users)]
    if settings.watch.mode != "discover" or not feeds:
        return []
    try:
        Directory(client).activity([_NO_ONE], [])
    except AccessDeniedError:
        what = f'feed "{feeds[0].name}": calls in progress cannot be queried (403)'
        return [f"{what}; give the OAuth client a role that may query the activity of conversations in analytics"]
    return []


def _look_up_kinds(settings: Settings, client: GenesysClient) -> list[str]:
    """Return a line for each kind of name that `resolve_names` needs and this client must not look up."""
    problems: list[str] = []
    for label in PERMISSIONS if settings.genesys.resolve_names else ():
        try:
            look_up_names(client, label, [_NO_ONE])
        except AccessDeniedError:
            problems.append(_not_permitted(f"genesys.resolve_names: names of {label}s", label))
    return problems


def _not_permitted(what: str, label: str) -> str:
    return f"{what} cannot be looked up (403); give the OAuth client a role with the permission {PERMISSIONS[label]}"
