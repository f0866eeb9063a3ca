"""Create notification channels, subscribe them to topics, and ask analytics about conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from connectors.errors import AccessDeniedError, GenesysError
from connectors.genesys.client import GenesysClient, status_of, to_error
from connectors.genesys.endpoints import CHANNELS_PATH, DETAILS_PATH, SUBSCRIPTIONS_PATH, SUBSCRIPTIONS_QUERY, path_of

__all__ = ["CHANNEL_LIFE_S", "Channel", "NotificationsRest"]

CHANNEL_LIFE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Channel:
    """A subscribed channel; anyone who knows its `uri` can read it. `life_s` seconds of it were left at first.

    `refused` are the topics that Genesys did not subscribe, each with the reason.
    """

    id: str
    uri: str = field(repr=False)
    life_s: float
    refused: tuple[tuple[str, str], ...] = ()


class NotificationsRest:
    """The REST calls of a notifications feed. One thread at a time may use it."""

    def __init__(self, client: GenesysClient) -> None:
        self._client = client
        self._endpoints = client.endpoints

    def open_channel(self, topics: Sequence[str], *, may_be_empty: bool = False) -> Channel:
        """Create a channel and subscribe it to the topics, 1,000 at most, except those that Genesys refuses.

        A create without an answer is repeated: at worst Genesys has a channel that is never connected, the first to be
        removed when there are too many. Raises `AccessDeniedError` if all topics are refused, unless the channel
        `may_be_empty`, or `GenesysError` or one of its kinds.
        """
        what = "create notification channel"
        channel = self._call("POST", what, CHANNELS_PATH)
        id_, uri = (channel.get(key) if isinstance(channel, dict) else None for key in ("id", "connectUri"))
        if not isinstance(id_, str) or not id_ or not isinstance(uri, str) or not uri.startswith(("ws://", "wss://")):
            raise GenesysError(
                f"{what}: {self._endpoints.api_url} answered without a channel; check that it is "
                "the API host of your region and that no proxy answers in its place"
            )
        refused = self.subscribe(id_, topics)
        if topics and len(refused) >= len(topics) and not may_be_empty:
            first, reason = refused[0]
            raise AccessDeniedError(
                f"subscribe: all of {len(refused)} topic(s) refused, the first {first}: {reason}; check the ids, and "
                "give the OAuth client a role with these permissions, in the division of what is watched",
                status=403,
            )
        return Channel(id_, uri, self._life_s(channel.get("expires")), tuple(refused))

    def subscribe(self, channel_id: str, topics: Sequence[str]) -> list[tuple[str, str]]:
        """Have a channel subscribed to these topics and no others; returns those refused, with the reasons.

        Raises `GenesysError` or one of its kinds.
        """
        path = path_of(SUBSCRIPTIONS_PATH, channelId=channel_id)
        what = f"subscribe to {len(topics)} topic(s)"
        body = [{"id": topic} for topic in topics]
        listing = self._call("PUT", what, path, query=SUBSCRIPTIONS_QUERY, body=body)
        return [
            (f"{topic.get('id')!s:.256}", _reason(topic))
            for topic in _entities(listing)
            if str(topic.get("state")).lower() == "rejected"
        ]

    def conversation_details(self, conversation_id: str) -> Any:
        """Return what analytics knows of a conversation, as JSON values, without a retry.

        Raises `httpx.HTTPStatusError` and `httpx.RequestError` as they are, and the errors of a token request.
        """
        return self._client.send_once("GET", path_of(DETAILS_PATH, conversationId=conversation_id))

    def _call(self, method: str, what: str, path: str, *, query: dict[str, str] | None = None, body: Any = None) -> Any:
        try:
            return self._client.call(method, path, what=what, query=query, body=body)
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if status_of(failure) == httpx.codes.FORBIDDEN:
                raise AccessDeniedError(
                    f"{what}: access denied (403); give the OAuth client a role with notifications and the permissions "
                    "of its topics, in the division of what is watched",
                    status=403,
                ) from failure
            raise to_error(failure, what=what, endpoints=self._endpoints) from failure

    def _life_s(self, expires: Any) -> float:
        """Return the seconds until a channel expires; a day, if Genesys gives no usable time."""
        try:
            expires_at = datetime.fromisoformat(expires)
        except (TypeError, ValueError):
            return CHANNEL_LIFE_S
        if expires_at.tzinfo is None:
            return CHANNEL_LIFE_S
        left_s = expires_at.timestamp() - self._client.clock.now()
        return left_s if 0 < left_s <= CHANNEL_LIFE_S else CHANNEL_LIFE_S


def _entities(listing: Any) -> list[dict[str, Any]]:
    entities = listing.get("entities") if isinstance(listing, dict) else None
    return [entity for entity in entities if isinstance(entity, dict)] if isinstance(entities, list) else []


def _reason(topic: dict[str, Any]) -> str:
    missing = topic.get("missingPermissions")
    permissions = ", ".join(map(str, missing)) if isinstance(missing, list) else ""
    return f"{permissions or topic.get('rejectionReason') or 'no reason given'!s:.256}"
