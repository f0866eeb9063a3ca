"""The server's side of one AudioHook session, without a socket and without a clock.

    session = Session(session_id, organization_id, now=now)
    events = session.receive(message, now)          # text as str, audio as bytes
    for text in session.to_send(): ...              # at once: a pong is due within 5 s

`deadline` is when `expire(now)` is to be called unless something is received before. When `over`, the session is
finished, and the WebSocket is to be closed. The client ends a session: it is asked to (`disconnect`) and closes. Only a
client that does not close within 10 s is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from connectors.genesys.feeds.audiohook.events import (
    Audio,
    ClientError,
    Closed,
    Declined,
    Discarded,
    Event,
    Failed,
    Opened,
    Paused,
    Ping,
    Resumed,
    Updated,
)
from connectors.genesys.feeds.audiohook.messages import (
    MAX_ID,
    RATE_HZ,
    best_channels,
    continued_sessions,
    duration_s,
    integer_of,
    text_of,
    texts_of,
)

__all__ = [
    "MAX_TEXT_BYTES",
    "NO_CONVERSATION",
    "Session",
    "SessionTiming",
]

MAX_TEXT_BYTES: Final = 64_000
NO_CONVERSATION: Final = "00000000-0000-0000-0000-000000000000"
"""The conversation of a connection probe, which Genesys makes when an integration is activated."""


@dataclass(frozen=True, slots=True)
class SessionTiming:
    """How long the other side may take, all in seconds.

    For its `open` after the upgrade (`open_s`), for its `close` after our `disconnect` and for closing the connection
    after our `closed` (`close_s`), and for anything at all while the session is open (`quiet_s`; it pings every 5 s).
    """

    open_s: float = 5.0
    close_s: float = 10.0
    quiet_s: float = 30.0


_State = Literal["opening", "active", "paused", "disconnecting", "closed", "over"]


class _ProtocolError(Exception):
    """What the client did wrong, in words for its log."""


class Session:
    """One session, from the accepted upgrade at `now` on; times are seconds of any clock that never goes backward.

    `wants` decides from the id of the conversation and its `texts` whether its audio is asked for.
    """

    def __init__(
        self,
        session_id: str,
        organization_id: str,
        now: float,
        *,
        timing: SessionTiming = SessionTiming(),
        wants: Callable[[str, Mapping[str, str]], bool] = lambda _, __: True,
    ) -> None:
        self.session_id = session_id
        self.deadline = now + timing.open_s
        self._organization_id = organization_id
        self._timing = timing
        self._wants = wants
        self._state: _State = "opening"
        self._channels = 0
        self._seq = 0
        self._clientseq = 0
        self._outgoing: list[bytes] = []

    @property
    def over(self) -> bool:
        """Return whether the WebSocket is to be closed."""
        return self._state == "over"

    @property
    def paused(self) -> bool:
        """Return whether the client has paused the audio."""
        return self._state == "paused"

    def receive(self, message: str | bytes, now: float) -> list[Event]:
        """Take in a message, text as str and audio as bytes, and return what it means, in order."""
        if self._state in ("active", "paused"):
            self.deadline = now + self._timing.quiet_s
        try:
            if isinstance(message, str):
                return self._text(message, now)
            return self._audio(len(message))
        except _ProtocolError as error:
            return self._fail(str(error), now)
        except (TypeError, ValueError, RecursionError):
            # JSON may be nested too deeply for Python; that concerns this client alone.
            return self._fail("a message that cannot be taken in", now)

    def expire(self, now: float) -> list[Event]:
        """Note that it is `now`: the deadline may have passed."""
        if now < self.deadline:
            return []
        if self._state == "opening":
            return self._fail("no open message in time", now)
        if self._state in ("active", "paused"):
            return self._fail("no ping in time", now)
        self._become_over()
        return []

    def disconnect(self, reason: Literal["completed", "unauthorized", "error"], info: str, now: float) -> None:
        """Ask the client to close, unless the session is ending already."""
        if self._state in ("opening", "active", "paused"):
            self._state = "disconnecting"
            self.deadline = now + self._timing.close_s
            self._send("disconnect", {"reason": reason, "info": info})

    def to_send(self) -> list[bytes]:
        """Return the text messages that are due, once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _audio(self, size: int) -> list[Event]:
        if self._state != "active":
            if self._state in ("opening", "paused"):
                raise _ProtocolError(f"audio while {self._state}")
            return []  # it was on its way when the session began to end
        if not self._channels:
            raise _ProtocolError("audio though no media was selected")
        if size % self._channels:
            raise _ProtocolError("audio that is not whole samples")
        return [Audio(size // self._channels)]

    def _text(self, text: str, now: float) -> list[Event]:
        if self._state not in ("opening", "active", "paused"):
            return self._ending(text, now)
        message = self._parse(text)
        kind, parameters, position_s = message["type"], message["parameters"], duration_s(message["position"])
        if kind == "close":
            return self._on_close(parameters, now)
        if kind == "error":
            return [ClientError(integer_of(parameters.get("code")) or 0, text_of(parameters.get("message")))]
        if kind == "open":
            return self._on_open(parameters, position_s, now) if self._state == "opening" else []
        if self._state == "opening":
            raise _ProtocolError("a message before open")
        return self._on_other(kind, parameters, position_s)

    def _parse(self, text: str) -> dict[str, Any]:
        """Handle a well-formed message in its turn. Raises _ProtocolError."""
        if len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            raise _ProtocolError(f"a text message of more than {MAX_TEXT_BYTES} bytes")
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise _ProtocolError("a text message that is not JSON") from None
        if not isinstance(message, dict) or message.get("version") != "2" or not isinstance(message.get("type"), str):
            raise _ProtocolError("a text message that is not of protocol version 2")
        seq, serverseq = integer_of(message.get("seq")), integer_of(message.get("serverseq"))
        if seq != self._clientseq + 1:
            raise _ProtocolError(f"seq is not {self._clientseq + 1}")
        self._clientseq = seq
        if serverseq is None or not 0 <= serverseq <= self._seq:
            raise _ProtocolError(f"serverseq is not within 0 and {self._seq}")
        identity = message.get("id")
        if not isinstance(identity, str) or identity.lower() != self.session_id.lower():
            raise _ProtocolError("id is not that of the session")
        if not isinstance(message.get("parameters"), dict):
            raise _ProtocolError("parameters are missing")
        try:
            duration_s(message.get("position"))
        except ValueError:
            raise _ProtocolError("position is not a duration") from None
        return message

    def _on_open(self, parameters: dict[str, Any], position_s: float, now: float) -> list[Event]:
        organization_id, conversation_id = parameters.get("organizationId"), parameters.get("conversationId")
        if not isinstance(organization_id, str) or organization_id.lower() != self._organization_id.lower():
            self.disconnect("unauthorized", "the organization is not that of the upgrade", now)
            return [Failed("open for another organization")]
        if not isinstance(conversation_id, str) or not 0 < len(conversation_id) <= MAX_ID:
            raise _ProtocolError("open without a conversationId")
        is_probe = conversation_id == NO_CONVERSATION
        offered = parameters.get("media")
        if not isinstance(offered, list):
            raise _ProtocolError("open without media")
        texts = texts_of(parameters)
        is_wanted = is_probe or self._wants(conversation_id, texts)
        channels = None if is_probe or not is_wanted else best_channels(offered)
        if channels is None and offered and is_wanted and not is_probe:
            raise _ProtocolError("no PCMU audio of 8000 Hz is offered")
        self._channels = len(channels) if channels else 0
        # A new object: only the checked parts of the offer are echoed.
        media = [{"type": "audio", "format": "PCMU", "channels": channels, "rate": RATE_HZ}] if channels else []
        opened: dict[str, Any] = {"media": media, "startPaused": False}
        if parameters.get("supportedLanguages") is True:
            opened["supportedLanguages"] = []
        self._state = "active"
        self.deadline = now + self._timing.quiet_s
        self._send("opened", opened)
        if not is_wanted:
            self.disconnect("completed", "this conversation is not monitored", now)
            return [Declined(conversation_id)]
        names = tuple(channels or ())
        return [
            Opened(conversation_id, position_s, self._channels, is_probe, continued_sessions(parameters), texts, names)
        ]

    def _ending(self, text: str, now: float) -> list[Event]:
        """Accept a close with any sequence number, as the numbers may have been the mistake; ignore the rest."""
        if self._state != "disconnecting" or len(text) > MAX_TEXT_BYTES:
            return []
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            return []
        if not isinstance(message, dict) or message.get("type") != "close":
            return []
        self._clientseq = integer_of(message.get("seq")) or self._clientseq
        parameters = message.get("parameters")
        return self._on_close(parameters if isinstance(parameters, dict) else {}, now)

    def _on_other(self, kind: str, parameters: dict[str, Any], position_s: float) -> list[Event]:
        """Take a message of an open session; ignore unknown types, because Genesys adds new ones without notice."""
        try:
            match kind:
                case "ping":
                    rtt = parameters.get("rtt")
                    event = Ping(None if rtt is None else duration_s(rtt), position_s)
                    self._send("pong", {})
                    return [event]
                case "discarded":
                    return [Discarded(duration_s(parameters.get("start")), duration_s(parameters.get("discarded")))]
                case "paused" if self._state == "active":
                    self._state = "paused"
                    return [Paused(position_s)]
                case "resumed":
                    resumed = Resumed(duration_s(parameters.get("start")), duration_s(parameters.get("discarded")))
                    self._state = "active"
                    return [resumed]
                case "update":
                    self._send("updated", {})
                    return [Updated(text_of(parameters.get("language")))]
        except ValueError:
            raise _ProtocolError(f"{kind} with bad parameters") from None
        return []

    def _on_close(self, parameters: dict[str, Any], now: float) -> list[Event]:
        reason = parameters.get("reason")
        self._send("closed", {})
        self._state = "closed"
        self.deadline = now + self._timing.close_s
        return [Closed(reason if reason in ("end", "disconnect", "reconnect") else "error")]

    def _fail(self, info: str, now: float) -> list[Event]:
        if self._state not in ("opening", "active", "paused"):
            return []
        self.disconnect("error", info, now)
        return [Failed(info)]

    def _become_over(self) -> None:
        self._state = "over"
        self.deadline = float("inf")

    def _send(self, kind: str, parameters: dict[str, Any]) -> None:
        self._seq += 1
        message = {
            "version": "2",
            "id": self.session_id,
            "type": kind,
            "seq": self._seq,
            "clientseq": self._clientseq,
            "parameters": parameters,
        }
        self._outgoing.append(orjson.dumps(message))
