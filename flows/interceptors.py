"""Create interceptors: write down what is asked before it is asked, audit what came of it, journal the watch.

The bootstrap does it for the conversations of the configuration, discovery for those that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError, OutcomeUnknownError
from connectors.genesys.entities import ActiveConversation
from connectors.genesys.names import Names
from connectors.state.actions import Action
from connectors.state.interceptors import InterceptorEntry, InterceptorRegistry
from flows.settings.models import InterceptorSettings, InterceptorTexts, Settings

__all__ = [
    "AuditTrail",
    "DiscoveredInterceptors",
    "InterceptorCreator",
    "Platform",
    "WatchJournal",
    "create_body",
    "obstacle_of",
]


NAMES_WITHIN_S: Final = 5.0


class Platform(Protocol):
    """The calls to Genesys; `connectors.genesys.interceptors.GenesysPlatform` makes them."""

    def check_load(self, max_concurrent: int) -> int:
        """Active conversations; raises SaturationError, GenesysError."""

    def create_interceptor(self, conversation_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create one, return Genesys' answer; raises OutcomeUnknownError, GenesysError."""


class WatchJournal(Protocol):
    """Where watch records go."""

    def watch(self, record: dict[str, Any], /) -> None:
        """Append a watch record."""

    def is_watching(self, conversation_id: str, /) -> bool:
        """Whether a watch of this conversation is in force."""


class AuditTrail(Protocol):
    """Where what was done is written down."""

    def append(self, action: str, *, conversation: str | None, outcome: str, **details: object) -> None:
        """Append a line."""


def create_body(interceptor: InterceptorSettings, texts: InterceptorTexts) -> dict[str, Any]:
    """Return the body of the request that creates an interceptor."""
    return {
        "interceptorType": "SIP",
        "interceptorAddress": interceptor.interceptor_address,
        "interceptorExtension": texts.extension,
        "interceptorName": texts.name_prefix + interceptor.conversation_id[:8],
        "interceptorSkill": texts.skill,
        "interceptorDepartment": texts.department,
        "interceptorTitle": texts.title,
        "interceptorEmail": texts.email,
        "metadata": {
            "legId": interceptor.leg_id,
            "audioSamplingRate": interceptor.audio_sampling_rate,
            "channelMatrix": list(interceptor.channel_matrix),
            "transcriptionDirective": {
                "enabled": interceptor.transcription_enabled,
                "language": interceptor.transcription_language,
            },
        },
    }


class DiscoveryPlatform(Platform, Protocol):
    """The calls to Genesys of discovery; `connectors.genesys.interceptors.GenesysPlatform` makes them."""

    def active_conversations(self) -> list[ActiveConversation]:
        """Return the calls in progress; raises GenesysError."""


class InterceptorCreator:
    """Create interceptors one by one; used by one thread."""

    def __init__(
        self,
        settings: Settings,
        platform: Platform,
        registry: InterceptorRegistry,
        journal: WatchJournal,
        audit: AuditTrail,
    ) -> None:
        self.settings = settings
        self.platform = platform
        self.registry = registry
        self.journal = journal
        self.audit = audit

    def create(self, interceptor: InterceptorSettings, *, discovered: bool = False) -> str | None:
        """Create an interceptor and journal its watch; returns the reason if that failed.

        Raises CredentialsError or AccessDeniedError, with which no other one can be created, once it is reported.
        """
        conversation_id = interceptor.conversation_id
        before = self.registry.get(conversation_id)
        watch = before.watch if before is not None else None
        self.registry.put(conversation_id, InterceptorEntry(phase="creating", watch=watch, discovered=discovered))
        try:
            answer = self.platform.create_interceptor(
                conversation_id, create_body(interceptor, self.settings.genesys.interceptor)
            )
        except OutcomeUnknownError as error:
            entry = InterceptorEntry(phase="creating", reason=str(error), watch=watch, discovered=discovered)
            self.registry.put(conversation_id, entry)
            return self.report_failure(conversation_id, obstacle_of(entry) or str(error))
        except GenesysError as error:
            self.registry.put(
                conversation_id, InterceptorEntry(phase="failed", reason=str(error), watch=watch, discovered=discovered)
            )
            self.report_failure(conversation_id, str(error))
            if isinstance(error, (CredentialsError, AccessDeniedError)):
                raise
            return str(error)
        interceptor_id = _interceptor_id(answer)
        if mismatch := _rate_mismatch(answer, interceptor.audio_sampling_rate):
            entry = InterceptorEntry(
                phase="failed",
                interceptor_id=interceptor_id or "(not told)",
                reason=mismatch,
                watch=watch,
                discovered=discovered,
            )
            self.registry.put(conversation_id, entry)
            return self.report_failure(conversation_id, mismatch)
        entry = InterceptorEntry(phase="created", interceptor_id=interceptor_id, discovered=discovered)
        self.registry.put(conversation_id, entry)
        self.audit.append(
            Action.INTERCEPTOR_CREATED, conversation=conversation_id, outcome="ok", interceptor_id=interceptor_id
        )
        self.watch(interceptor, entry)
        return None

    def watch(self, interceptor: InterceptorSettings, entry: InterceptorEntry, *, goes_on: bool = False) -> None:
        """Journal the watch of an interceptor that exists, if it is new or has changed.

        With `goes_on`, the call is known to be in progress, and a watch that ended as silent is journaled again.
        """
        record = self.settings.watch_of(interceptor)
        is_lost = goes_on and not self.journal.is_watching(interceptor.conversation_id)
        if entry.watch == record and not is_lost:
            return
        # In this order: a crash in between journals the same watch once more, which changes nothing.
        self.journal.watch(record)
        self.registry.put(interceptor.conversation_id, replace(entry, watch=record))

    def report_failure(self, conversation_id: str, reason: str) -> str:
        """Audit that a conversation has no usable interceptor, and return the reason."""
        self.audit.append(Action.INTERCEPTOR_FAILED, conversation=conversation_id, outcome="failed", reason=reason)
        return reason


class DiscoveredInterceptors:
    """Serve discovery: list the calls in progress from `platform`, and have their interceptors created."""

    def __init__(
        self,
        creator: InterceptorCreator,
        platform: DiscoveryPlatform,
        names: Names = Names(),  # noqa: B008 - without state
        on_created: Callable[[], None] = lambda: None,
    ) -> None:
        self._creator = creator
        self._platform = platform
        self._names = names
        self._on_created = on_created
        self._saturated: bool | None = None

    def active(self) -> list[ActiveConversation]:
        """Return the calls in progress, and audit the load when it becomes too high or low enough."""
        listed = self._platform.active_conversations()
        # This thread may wait for names. All are asked for at once: one by one they would cost a request each.
        self._names.wait_for((label for one in listed for label in one.labels.items()), NAMES_WITHIN_S)
        active = [self._named(one) for one in listed]
        allowed = self._creator.settings.genesys.max_concurrent
        if (saturated := len(active) >= allowed) != self._saturated:
            self._saturated = saturated
            self._creator.audit.append(
                Action.INTERCEPTOR_VALIDATION,
                conversation=None,
                outcome="refused" if saturated else "ok",
                active_load=len(active),
                max_concurrent=allowed,
            )
        return active

    def _named(self, one: ActiveConversation) -> ActiveConversation:
        """Replace ids among the labels by names."""
        return one._replace(labels={name: self._names.name_of(name, value) for name, value in one.labels.items()})

    def create(self, conversation_id: str, labels: Mapping[str, str]) -> str | None:
        """Create an interceptor, unless it was asked for before; returns the reason if there is none to be used.

        Raises CredentialsError or AccessDeniedError.
        """
        interceptor = self._creator.settings.discovered_interceptor(conversation_id, labels)
        entry = self._creator.registry.get(conversation_id)
        if entry is not None and entry.phase == "created":
            self._creator.watch(interceptor, entry, goes_on=True)
            return None
        if entry is not None and (obstacle := obstacle_of(entry)):
            return self._creator.report_failure(conversation_id, obstacle)
        reason = self._creator.create(interceptor, discovered=True)
        if reason is None:
            self._on_created()
        return reason

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Journal the labels that a conversation has now, if discovery has found it and they have changed."""
        entry = self._creator.registry.get(conversation_id)
        if entry is not None and entry.discovered and entry.phase == "created":
            self._creator.watch(self._creator.settings.discovered_interceptor(conversation_id, labels), entry)

    def is_watching(self, conversation_id: str) -> bool:
        """Tell whether a conversation is watched already."""
        return self._creator.journal.is_watching(conversation_id)

    def forget_others(self, active: Collection[str]) -> None:
        """Forget the discovered interceptors of conversations that are over: they are not asked for again."""
        over = [
            conversation_id
            for conversation_id, entry in self._creator.registry.items()
            if entry.discovered
            and conversation_id not in active
            and not self._creator.journal.is_watching(conversation_id)
        ]
        if over:
            self._creator.registry.remove(over)


def obstacle_of(entry: InterceptorEntry) -> str | None:
    """Return why an interceptor that was not created must not be asked for again, or None if it may be."""
    if entry.phase == "creating":
        return (
            f"{entry.reason or 'it may exist: an earlier bootstrap ended before Genesys had answered'}. Look for the "
            "interceptor at Genesys, delete it if it is there, then run bootstrap with --retry-unknown"
        )
    if entry.phase == "failed" and entry.interceptor_id is not None:
        return entry.reason
    return None


def _interceptor_id(answer: Mapping[str, Any]) -> str | None:
    interceptor_id = answer.get("id")
    return str(interceptor_id) if isinstance(interceptor_id, (str, int)) else None


def _rate_mismatch(answer: Mapping[str, Any], asked_hz: int) -> str | None:
    """Return the words for an answer that names another sampling rate than was asked for, or None."""
    metadata = answer.get("metadata")
    places = [answer, metadata] if isinstance(metadata, Mapping) else [answer]
    for key in ("mediaSamplingRate", "audioSamplingRate"):
        for place in places:
            rate_hz = place.get(key)
            if isinstance(rate_hz, (int, float)) and not isinstance(rate_hz, bool) and rate_hz != asked_hz:
                return (
                    f"sampling-rate mismatch: the interceptor was asked for at {asked_hz} Hz and its media is at "
                    f"{rate_hz:g} Hz; delete interceptor {_interceptor_id(answer) or 'of this conversation'} at "
                    f"Genesys, set audio_sampling_rate = {rate_hz:g}, then run bootstrap with --retry-unknown"
                )
    return None
