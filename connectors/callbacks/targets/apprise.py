"""Send alerts with the library Apprise, e-mail included: https://github.com/caronc/apprise (extra `notify`)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import orjson

from connectors.callbacks.policy import Outcome
from connectors.callbacks.targets.message import message_of

__all__ = ["AppriseSender", "mistake_in", "render"]

_TYPES = {"critical": "failure", "warning": "warning"}


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return the title, the text and the type of a message, which `AppriseSender` hands to the library."""
    message = message_of(alert)
    kind = "success" if alert.get("state") == "resolved" else _TYPES[severity]
    text = "\n".join(f"{name}: {fact}" for name, fact in message.facts)
    return orjson.dumps({"title": message.summary, "body": text, "type": kind})


def mistake_in(url: str) -> str | None:
    """Say what is wrong with an Apprise URL, without showing it; None if it can be used."""
    if find_spec("apprise") is None:
        return "needs the library apprise: install voicewatch with the extra `notify`"
    import apprise

    return None if apprise.Apprise().add(url) else "does not hold a URL that Apprise knows"


class AppriseSender:
    """Make attempts with Apprise, each in a separate daemon thread, because the library blocks.

    An attempt that takes longer than `timeout_s` counts as failed; its thread ends with the library's own limits.
    The library resolves names and follows redirects by itself: the checks of addresses do not hold for it.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s

    async def send(self, body: bytes, headers: Mapping[str, str], now: Callable[[], float]) -> Outcome:  # noqa: ARG002
        """Make one attempt and say how it ended; Apprise says no more than whether it went well."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[bool | Exception] = loop.create_future()

        def settle(result: bool | Exception) -> None:  # noqa: FBT001 - a callback of the loop
            if not ended.done():
                ended.set_result(result)

        def work() -> None:
            result: bool | Exception
            try:
                result = self._notify(orjson.loads(body))
            except Exception as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, result)

        threading.Thread(target=work, name="apprise", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await ended
        except TimeoutError:
            return Outcome(failure="timeout", detail=f"no result within {self._timeout_s:g} s")
        if isinstance(result, Exception):
            return Outcome(failure="protocol", detail=type(result).__name__)
        if not result:
            detail = "Apprise reports that the service did not accept the message"
            return Outcome(failure="protocol", detail=detail, throttled=True)
        return Outcome(status=200, detail="accepted, as Apprise reports")

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _notify(self, message: dict[str, str]) -> bool:
        import apprise

        sender = apprise.Apprise()
        sender.add(self._url)
        # Services that send HTML or Markdown, such as e-mail by default, get texts escaped and with their line breaks.
        text: Any = {"body_format": apprise.NotifyFormat.TEXT}
        return bool(sender.notify(title=message["title"], body=message["body"], notify_type=message["type"], **text))
