"""Every URL and path of Genesys Cloud, real and simulated."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

__all__ = [
    "ACTIVITY_PATH",
    "CHANNELS_PATH",
    "DEFAULT_BASE_URL",
    "DETAILS_PATH",
    "DETAILS_QUERY_PATH",
    "DIVISIONS_PATH",
    "EDGES_PATH",
    "EVENTS_PATH",
    "INTERCEPTOR_PATH",
    "LOAD_PATH",
    "LOAD_QUERY",
    "MEDIA_STATISTICS_PATH",
    "QUEUES_PATH",
    "STATUS_PAGE",
    "SUBSCRIPTIONS_PATH",
    "SUBSCRIPTIONS_QUERY",
    "TOKEN_PATH",
    "USERS_PATH",
    "USERS_SEARCH_PATH",
    "Endpoints",
    "path_of",
]

DEFAULT_BASE_URL = "https://api.mypurecloud.com"
STATUS_PAGE = "https://status.mypurecloud.com"

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
LOAD_PATH = "/api/v2/conversations/voice"
LOAD_QUERY = {"conversationType": "voice"}
INTERCEPTOR_PATH = "/api/v2/conversations/voice/{conversationId}/interceptor"
EVENTS_PATH = "/api/v2/events/conversations/voice"
CHANNELS_PATH = "/api/v2/notifications/channels"
SUBSCRIPTIONS_PATH = "/api/v2/notifications/channels/{channelId}/subscriptions"
SUBSCRIPTIONS_QUERY = {"ignoreErrors": "true"}
DETAILS_PATH = "/api/v2/analytics/conversations/{conversationId}/details"
DETAILS_QUERY_PATH = "/api/v2/analytics/conversations/details/query"
MEDIA_STATISTICS_PATH = "/api/v2/telephony/providers/edges/mediastatistics/conversations/{conversationId}"
ACTIVITY_PATH = "/api/v2/analytics/conversations/activity/query"
QUEUES_PATH = "/api/v2/routing/queues"
USERS_PATH = "/api/v2/users"
EDGES_PATH = "/api/v2/telephony/providers/edges"
DIVISIONS_PATH = "/api/v2/authorization/divisions"
USERS_SEARCH_PATH = "/api/v2/users/search"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where everything is. Build it with `from_base_url`."""

    api_url: str
    token_url: str
    events_url: str
    load_path: str
    interceptor_template: str
    status_page: str = STATUS_PAGE

    @classmethod
    def from_base_url(
        cls,
        base_url: str = DEFAULT_BASE_URL,
        *,
        login_url: str | None = None,
        events_url: str | None = None,
        token_path: str | None = None,
        load_path: str | None = None,
        interceptor_path: str | None = None,
        events_path: str | None = None,
    ) -> Endpoints:
        """Return the endpoints of the API host `base_url`.

        The login host is the API host with `api.` replaced by `login.`; a host without `api.` is its own login
        host. Events are on the API host, `wss` for `https` and `ws` for `http`. Paths are appended to their host,
        `events_url` is complete, and `{conversationId}` in `interceptor_path` stands for the conversation; None
        means the built-in one. Raises ValueError with what is wrong.

        >>> Endpoints.from_base_url("https://api.mypurecloud.ie").token_url
        'https://login.mypurecloud.ie/oauth/token'
        """
        base = _split(base_url, "base_url")
        login = base if login_url is None else _split(login_url, "login_url")
        if login_url is None and base.netloc.lower().startswith("api."):
            login = base._replace(netloc="login." + base.netloc[len("api.") :])
        if events_url is None:
            socket = base._replace(scheme={"http": "ws", "https": "wss"}[base.scheme])
            events_url = _join(socket, events_path or EVENTS_PATH)
        elif not events_url.startswith(("ws://", "wss://")):
            raise ValueError("events_url must be a URL that starts with ws:// or wss://")
        interceptor_path = interceptor_path or INTERCEPTOR_PATH
        if "{conversationId}" not in interceptor_path:
            raise ValueError("interceptor_path must contain {conversationId}")
        return cls(
            api_url=base.geturl(),
            token_url=_join(login, token_path or TOKEN_PATH),
            events_url=events_url,
            load_path="/" + (load_path or LOAD_PATH).lstrip("/"),
            interceptor_template="/" + interceptor_path.lstrip("/"),
        )

    def interceptor_path(self, conversation_id: str) -> str:
        """Return the path of a conversation's interceptors."""
        return path_of(self.interceptor_template, conversationId=conversation_id)


def path_of(template: str, **segments: str) -> str:
    """Fill in a path; each value is opaque text and stays one path segment.

    >>> path_of("/a/{id}/b", id="x/..")
    '/a/x%2F../b'
    """
    for name, value in segments.items():
        segment = quote(value, safe="")
        if segment in {".", ".."}:  # unreserved letters, but as a segment they would mean a place
            segment = segment.replace(".", "%2E")
        template = template.replace(f"{{{name}}}", segment)
    return template


def _split(url: str, key: str) -> SplitResult:
    parts = urlsplit(url.strip().rstrip("/"))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{key} must be a URL that starts with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise ValueError(f"{key} must not hold a user name or password; credentials come from the environment")
    if parts.query or parts.fragment:
        raise ValueError(f"{key} must not have a query or a fragment")
    try:
        parts.port  # noqa: B018 - reading it validates it
    except ValueError:
        raise ValueError(f"{key} has no valid port") from None
    return parts


def _join(base: SplitResult, path: str) -> str:
    return base.geturl() + "/" + path.lstrip("/")
