"""The session of the client in Genesys' AudioHook reference implementation, message by message.

That client is TypeScript and is not run here. What it sends, in which order and what it insists on in an answer was
read in its sources (`clientsessionimpl.ts`, `validators.ts`, `mediasource-tone.ts`) and is put down here in our words.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from connectors.genesys.simulator.audiohook import upgrade
from connectors.genesys.simulator.caller import plan_call
from tests.support.audiohook import KEY, SECRET, listening

UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|00000000-0000-0000-0000-000000000000",
    re.I,
)
PLAN = plan_call(1, 0)
MEDIA = [
    {"type": "audio", "format": "PCMU", "channels": channels, "rate": 8000}
    for channels in (["external", "internal"], ["external"], ["internal"])
]
TONE = bytes([0xFF, 0xFF, 0x0D, 0x0D, 0x06, 0x06, 0x0D, 0x0D, 0xFF, 0xFF, 0x8D, 0x8D, 0x86, 0x86, 0x8D, 0x8D]) * 200


class ReferenceClient:
    """Sends what the reference client sends, and takes only what it takes."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seq = self.serverseq = 0
        self.samples = 0

    async def send(self, kind: str, parameters: dict[str, Any]) -> int:
        self.seq += 1
        message = {
            "version": "2",
            "type": kind,
            "id": PLAN.session_id,
            "seq": self.seq,
            "serverseq": self.serverseq,
            "position": f"PT{self.samples / 8000}S",
            "parameters": parameters,
        }
        await self.connection.send(json.dumps(message, separators=(",", ":")))
        return self.seq

    async def audio(self, frames: int) -> None:
        for _ in range(frames):
            await self.connection.send(TONE)
            self.samples += 1600

    async def expect(self, kind: str, clientseq: int | None = None) -> dict[str, Any]:
        text = await self.connection.recv()
        assert isinstance(text, str)
        assert len(text) <= 65_535
        message = json.loads(text)
        assert message["version"] == "2"
        assert UUID.fullmatch(message["id"])
        assert message["seq"] == self.serverseq + 1
        assert isinstance(message["clientseq"], int)
        assert message["type"] == kind
        if clientseq is not None:
            assert message["clientseq"] == clientseq
        self.serverseq = message["seq"]
        assert isinstance(message["parameters"], dict)
        return dict(message["parameters"])


async def session(url: str) -> int | None:
    """The tests of the reference implementation, as one session: a plain run with every kind of client message."""
    headers = upgrade(url, PLAN, KEY, SECRET, created=time.time(), nonce="VGhpc0lzQVVuaXF1ZU5vbmNl")
    del headers["Audiohook-Retry-Attempt"]  # which that client does not send
    async with asyncio.timeout(20), connect(url, additional_headers=headers, proxy=None) as connection:
        client = ReferenceClient(connection)
        participant = {"id": PLAN.correlation_id, "ani": "", "aniName": "", "dnis": ""}
        await client.send(
            "open",
            {
                "organizationId": PLAN.organization_id,
                "conversationId": PLAN.conversation_id,
                "participant": participant,
                "media": MEDIA,
                "supportedLanguages": True,
            },
        )
        opened = await client.expect("opened")
        assert len(opened["media"]) <= 1
        assert opened["media"][0] in MEDIA
        assert opened.get("startPaused", False) is False
        assert all(isinstance(language, str) for language in opened["supportedLanguages"])
        await client.audio(5)
        await client.expect("pong", await client.send("ping", {}))
        await client.expect("pong", await client.send("ping", {"rtt": "PT0.001532417S"}))
        await client.audio(3)
        await client.send("discarded", {"start": "PT1.6S", "discarded": "PT0.4S"})
        client.samples += 3200
        await client.send("paused", {})
        await client.send("paused", {})
        client.samples += 8000
        await client.expect("pong", await client.send("ping", {"rtt": "PT0.0021S"}))
        await client.send("resumed", {"start": "PT2S", "discarded": "PT1S"})
        await client.send("resumed", {"start": "PT3S", "discarded": "PT0S"})
        await client.audio(2)
        await client.send("error", {"code": 400, "message": "tough stuff"})
        await client.send("update", {"language": "es-ES"})
        await client.expect("updated")
        await client.audio(1)
        await connection.send(TONE[:400])
        client.samples += 200
        await client.send("close", {"reason": "end"})
        assert await client.expect("closed") == {}
        await connection.close()
        return connection.close_code


def test_the_session_of_the_reference_client_completes(tmp_path: Path) -> None:
    """Its messages in its order are all answered as it demands, and its audio, loss and pause are measured right."""
    with listening(tmp_path) as listener:
        assert asyncio.run(session(listener.url)) == 1000
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        counts = listener.feed.counts
        assert (counts.opened, counts.failed, counts.lost) == (1, 0, 0)
    frames = listener.frames(PLAN.conversation_id)
    assert frames[-1]["event"] == "conversation.ended"
    ticks = [frame["audiohook"] for frame in frames if frame["audiohook"].get("event", "closed: end") == "closed: end"]
    assert sum(tick["audioMs"] for tick in ticks) == 11 * 200 + 25
    assert sum(tick["discardedMs"] for tick in ticks) == 400
    rtts = [frame["audiohook"].get("rttMs") for frame in frames if frame["audiohook"].get("event") == "ping"]
    assert rtts == [1.532, 2.1]
    assert [frame["audiohook"]["event"] for frame in frames if "event" in frame["audiohook"]] == [
        "opened",
        "ping",
        "discarded",
        "paused",
        "ping",
        "resumed",
        "resumed",
        "error",
        "updated",
        "closed: end",
    ]
    assert frames[-1]["audiohook"]["unaccountedMs"] == 0.0
