"""The EventBridge feed over an SQS queue: EventBridge puts Genesys' events into the queue, and voicewatch takes them.

Delivery guarantee: exactly once into the journal. A message is deleted when the journal has its event on the disk, and
not before; SQS delivers any other message again when its visibility timeout ends. Events that the journal holds already
are deleted and not recorded again.

A message that is not an event is recorded as invalid. It is deleted, unless the queue has a dead-letter queue: then it
stays, and SQS moves it there after the number of receives that the queue allows.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from connectors.errors import UsageError
from connectors.genesys.client import Clock
from connectors.genesys.feeds.base import FeedBase, FeedLimits, OnEvent, OnState, RecentIds, WatchRules, ignore_event
from connectors.genesys.feeds.eventbridge.recorder import DiskBarrier, event_recorder
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.retry import backoff_s
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import in_daemon_thread

__all__ = ["QueueFeed", "QueueTiming", "check_boto3"]

BATCH: Final = 10
_REGION: Final = re.compile(r"(?:sqs\.|[a-z0-9-]+\.sqs\.)([a-z0-9-]+)\.(?:amazonaws|api\.aws).*")


@dataclass(frozen=True, slots=True)
class QueueTiming:
    """How many requests wait for messages at a time, for how long, and how long to wait after failures, in seconds."""

    pollers: int = 3
    long_poll_s: int = 20
    base_s: float = 0.5
    cap_s: float = 30.0


def check_boto3() -> None:
    """Raise UsageError if boto3 is not installed."""
    if importlib.util.find_spec("boto3") is None:
        raise UsageError("queue_url needs boto3, which is not installed: pip install 'voicewatch[sqs]'")


class QueueFeed(FeedBase):
    """Take events from the SQS queue at `url`. Credentials are found as AWS' own tools find them.

    `known` are the ids of the events in the journal, and `recorded` the last of these events, oldest first.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        recorder: Recorder,
        limits: FeedLimits,
        known: Iterable[str] = (),
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        keep_raw: bool = False,
        names: Names = Names(),  # noqa: B008 - without state
        recorded: Iterable[bytes] = (),
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        timing: QueueTiming = QueueTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state)
        self._url = url
        self._events = event_recorder(
            name,
            recorder,
            limits,
            rules=rules,
            known=known,
            keep_raw=keep_raw,
            on_event=on_event,
            names=names,
            recorded=recorded,
        )
        self._barrier = DiskBarrier(recorder.sync)
        self._timing = timing
        self._u = clock.u
        self._poison = RecentIds()
        self._main: asyncio.Task[None] | None = None

    @property
    def duplicates(self) -> int:
        """Return the number of events that were received again."""
        return self._events.duplicates

    def figures(self) -> Mapping[str, float]:
        """Return the events that were received again."""
        return {"duplicates": self.duplicates}

    def _run(self, runner: asyncio.Runner) -> None:
        runner.run(self._poll_until_stopped())

    def _interrupt(self) -> None:
        if self._main is not None:
            self._main.cancel()

    async def _poll_until_stopped(self) -> None:
        self._main = asyncio.current_task()
        try:
            if not self._thread.stopping.is_set():
                queue = await in_daemon_thread(lambda: _Queue(self._url), name="sqs")
                async with asyncio.TaskGroup() as polling:
                    polling.create_task(self._events.follow_names())
                    for _ in range(self._timing.pollers):
                        polling.create_task(self._poll(queue))
        except asyncio.CancelledError:
            if not self._thread.stopping.is_set():
                raise
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        self._recorder.flush()
        self._change("down", self._thread.reason)

    async def _poll(self, queue: _Queue) -> None:
        """Receive, record and delete messages. Raise what the recorder raises."""
        failures = 0
        while True:
            try:
                messages = await in_daemon_thread(lambda: queue.receive(self._timing.long_poll_s), name="sqs")
                self._change("up", "receiving from the queue")
                failures = 0
            except queue.errors as error:
                failures += 1
                self._change("down", _reason(error))
                await asyncio.sleep(
                    backoff_s(failures, self._u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)
                )
                continue
            if messages:
                await self._take(queue, messages)

    async def _take(self, queue: _Queue, messages: Sequence[dict[str, Any]]) -> None:
        done = [message for message in messages if self._record(message, keeps_poison=queue.has_dead_letters)]
        await self._barrier.passed()
        if self._thread.stopping.is_set() or not done:  # the journal may have been closed before this was recorded
            return
        try:
            await in_daemon_thread(lambda: queue.delete(done), name="sqs")
        except queue.errors as error:  # they come again, and are known then
            get_logger(__name__).warning("messages_not_deleted", feed=self._name, reason=_reason(error))

    def _record(self, message: dict[str, Any], *, keeps_poison: bool) -> bool:
        """Record the event of a message; return whether the message is to be deleted."""
        if message["MessageId"] in self._poison:
            return not keeps_poison
        taken = self._events.take(message["Body"].encode("utf-8", "surrogatepass"))
        if not taken.invalid:
            return True
        get_logger(__name__).warning("event_refused", feed=self._name, reason=taken.invalid[0])
        self._poison.add(message["MessageId"])
        return not keeps_poison


class _Queue:
    """A queue, by blocking requests. Safe across threads."""

    def __init__(self, url: str) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        parts = urlsplit(url)
        region = _REGION.fullmatch(parts.hostname or "")
        self.errors: tuple[type[Exception], ...] = (BotoCoreError, ClientError)
        self._url = url
        self._client = boto3.session.Session().client(
            "sqs",
            endpoint_url=f"{parts.scheme}://{parts.netloc}",
            region_name=None if region is None else region[1],
            config=Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 2}),
        )
        self._has_dead_letters: bool | None = None

    @property
    def has_dead_letters(self) -> bool:
        """Return whether the queue moves messages it cannot use to a dead-letter queue; False before `receive`."""
        return bool(self._has_dead_letters)

    def receive(self, wait_s: int) -> list[dict[str, Any]]:
        """Wait for messages, and return them. Raise one of `errors`."""
        if self._has_dead_letters is None:
            names = ["RedrivePolicy"]
            asked = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)
            self._has_dead_letters = "RedrivePolicy" in asked.get("Attributes", {})
        answer = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait_s)
        return list(answer.get("Messages", []))

    def delete(self, messages: Sequence[dict[str, Any]]) -> None:
        """Delete messages. Raise one of `errors`; a message that is not deleted comes again."""
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
        ]
        answer = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        if failed := answer.get("Failed"):
            get_logger(__name__).warning("messages_not_deleted", reason=failed[0].get("Code"), count=len(failed))


def _reason(error: Exception) -> str:
    """Describe an error of boto3 without what it quotes, which may be a credential."""
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return f"SQS: {code or type(error).__name__}"
