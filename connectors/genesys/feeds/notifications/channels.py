"""Notification channels: made and subscribed with Genesys' platform SDK, over a transport of ours.

Importing this module does not import the SDK: that happens with the first request, in the thread that makes it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from connectors.errors import AccessDeniedError, GenesysError
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import Patience, explain, http_client, retrying, sdk_client, status_of, transient
from connectors.genesys.endpoints import Endpoints

__all__ = ["CHANNEL_LIFE_S", "Channel", "NotificationsRest"]

CHANNEL_LIFE_S = 24 * 3600.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel that is subscribed; whoever knows its `uri` can read it. `life_s` seconds of it were left when made."""

    id: str
    uri: str = field(repr=False)
    life_s: float


class NotificationsRest:
    """The REST calls of a notifications feed. One thread at a time may use it.

    Every wait has a timeout and every retry a bound (`patience`). `now`, `sleep` and `u` are the clock (epoch seconds),
    the waiting and the chance of the retries; whatever `sleep` raises ends a call.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        tokens: TokenProvider,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        u: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._tokens = tokens
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._u = u
        self._client = http_client(patience)

    def close(self) -> None:
        """Close the HTTP client; the token provider is its owner's to close."""
        self._client.close()

    def open_channel(self, topics: Sequence[str]) -> Channel:
        """Make a channel and subscribe it to all of the topics, 1,000 at most.

        A create that went unanswered is sent again: at worst Genesys has a channel that nobody connects to, the first
        to go when there are too many. Raises `AccessDeniedError` if one of the topics is not permitted, or
        `GenesysError` or one of its kinds.
        """
        channel = self._call("create notification channel", lambda api: api.post_notifications_channels())
        if not channel.id or not str(channel.connect_uri).startswith(("ws://", "wss://")):
            raise GenesysError(
                f"create notification channel: {self._endpoints.api_url} answered without a channel; check that it is "
                "the API host of your region and that no proxy answers in its place"
            )
        body = [{"id": topic} for topic in topics]
        listing = self._call(
            f"subscribe to {len(topics)} topic(s)",
            lambda api: api.post_notifications_channel_subscriptions(channel.id, body),
        )
        rejected = [topic for topic in listing.entities or () if str(topic.state).lower() == "rejected"]
        if rejected:
            first = rejected[0]
            missing = ", ".join(first.missing_permissions or ()) or first.rejection_reason or "no reason given"
            name = f"{first.id!s:.256}"
            raise AccessDeniedError(
                f"subscribe: {len(rejected)} topic(s) rejected, the first {name}: {missing:.256}; give the OAuth "
                "client a role with these permissions, in the division of what is watched",
                status=403,
            )
        return Channel(channel.id, channel.connect_uri, self._life_s(channel.expires))

    def conversation_details(self, conversation_id: str) -> Any:
        """What analytics knows of a conversation, as JSON. Asked once: raises `httpx.HTTPStatusError` and
        `httpx.RequestError` as they are, and what asking for a token raises.
        """
        path = f"/api/v2/analytics/conversations/{quote(conversation_id, safe='')}/details"
        return self._authorized(
            lambda api: api.api_client.call_api(
                path,
                "GET",
                header_params={"Accept": "application/json"},
                response_type="object",
                auth_settings=["PureCloud OAuth"],
            )
        )

    @cached_property
    def _api(self) -> Any:
        from PureCloudPlatformClientV2 import NotificationsApi

        return NotificationsApi(sdk_client(self._endpoints.api_url, self._client))

    def _call(self, what: str, send: Callable[[Any], T]) -> T:
        try:
            return retrying(
                lambda: self._authorized(send),
                what=what,
                repeatable=transient,
                patience=self._patience,
                now=self._now,
                sleep=self._sleep,
                u=self._u,
            )
        except (httpx.HTTPStatusError, httpx.RequestError) as failure:
            if status_of(failure) == httpx.codes.FORBIDDEN:
                raise AccessDeniedError(
                    f"{what}: access denied (403); all topics of a channel must be permitted: give the OAuth client a "
                    "role with notifications and the permissions of its topics, in the division of what is watched",
                    status=403,
                ) from failure
            raise explain(failure, what=what, endpoints=self._endpoints) from failure

    def _authorized(self, send: Callable[[Any], T]) -> T:
        """Send with the token, and once more with a fresh one after a 401."""
        api = self._api
        api.api_client.access_token = token = self._tokens.token()
        try:
            return send(api)
        except httpx.HTTPStatusError as failure:
            if failure.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
        api.api_client.access_token = self._tokens.renew(token)
        return send(api)

    def _life_s(self, expires: Any) -> float:
        """Seconds until a channel expires; a day, if what Genesys says is of no use."""
        if not isinstance(expires, datetime) or expires.tzinfo is None:
            return CHANNEL_LIFE_S
        left_s = expires.timestamp() - self._now()
        return left_s if 0 < left_s <= CHANNEL_LIFE_S else CHANNEL_LIFE_S
