"""The bootstrap: an interceptor for every conversation to be watched, and its watch record in the journal.

Running it again creates none twice. What each create came to is written down before and after the request
(`connectors.state.interceptors`); one whose outcome is not known is never repeated unless the caller asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError, OutcomeUnknownError, SaturationError
from connectors.genesys.auth import TokenProvider, credentials_from_environment
from connectors.genesys.client import GenesysClient
from connectors.genesys.interceptors import GenesysPlatform
from connectors.runtime.tracing import configure_tracing
from connectors.state.actions import Action
from connectors.state.audit import AuditLog
from connectors.state.files import StateLock, check_writable
from connectors.state.interceptors import InterceptorEntry, InterceptorRegistry
from flows.feeds import endpoints_of
from flows.live import open_journal
from flows.settings.models import InterceptorSettings, InterceptorTexts, Settings
from flows.state import StateLayout

__all__ = [
    "AuditTrail",
    "BootstrapReport",
    "Failure",
    "Platform",
    "Shield",
    "WatchJournal",
    "bootstrap",
    "create_body",
    "run_bootstrap",
]

Shield = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a signal waits until the end."""


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


@dataclass(frozen=True, slots=True)
class Failure:
    """A conversation without a usable interceptor, and why."""

    conversation_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BootstrapReport:
    """What a bootstrap came to, by conversation id, in the order of the configuration.

    `created` now, `existing` from an earlier run, `failed` with the reason; each conversation is in one of them.
    `watched` are those whose watch is in force: created, and the conversation has not ended.
    """

    created: tuple[str, ...]
    existing: tuple[str, ...]
    failed: tuple[Failure, ...]
    watched: tuple[str, ...]


def create_body(interceptor: InterceptorSettings, texts: InterceptorTexts) -> dict[str, Any]:
    """The body of the request that creates an interceptor."""
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


def bootstrap(
    settings: Settings,
    platform: Platform,
    registry: InterceptorRegistry,
    journal: WatchJournal,
    audit: AuditTrail,
    *,
    retry_unknown: bool = False,
    shield: Shield = nullcontext,
) -> BootstrapReport:
    """Create the interceptors that are missing and journal the watches that are new or changed.

    What Genesys refuses is reported, never raised, and tried again by the next bootstrap. A create that may have
    taken effect is left alone until `retry_unknown`. If nothing can be created at all (saturation, credentials,
    access), nothing more is tried, and what exists is watched nevertheless. Raises `StateError` if the state
    directory fails.
    """
    return _Bootstrap(settings, platform, registry, journal, audit, shield).run(retry_unknown=retry_unknown)


def run_bootstrap(
    settings: Settings, environ: Mapping[str, str], *, retry_unknown: bool = False, shield: Shield = nullcontext
) -> BootstrapReport:
    """Create what is missing at Genesys, each within `shield`, and journal the watches.

    Raises StateError before anything is created.
    """
    configure_tracing(environ)
    state = StateLayout(settings.state.dir)
    check_writable(state.dir)
    with StateLock(state.lock):
        endpoints = endpoints_of(settings)
        tokens = TokenProvider(endpoints, credentials_from_environment(environ))
        journal = open_journal(settings)
        try:
            return bootstrap(
                settings,
                GenesysPlatform(GenesysClient(endpoints, tokens)),
                InterceptorRegistry(state.interceptors),
                journal,
                AuditLog(state.audit),
                retry_unknown=retry_unknown,
                shield=shield,
            )
        finally:
            journal.close()


class _Bootstrap:
    def __init__(
        self,
        settings: Settings,
        platform: Platform,
        registry: InterceptorRegistry,
        journal: WatchJournal,
        audit: AuditTrail,
        shield: Shield,
    ) -> None:
        self._settings = settings
        self._platform = platform
        self._registry = registry
        self._journal = journal
        self._audit = audit
        self._shield = shield
        self._created: list[str] = []
        self._existing: list[str] = []
        self._failed: dict[str, str] = {}

    def run(self, *, retry_unknown: bool) -> BootstrapReport:
        missing = []
        for interceptor in self._settings.interceptors:
            entry = self._registry.get(interceptor.conversation_id)
            if entry is not None and entry.phase == "created":
                self._existing.append(interceptor.conversation_id)
                self._watch(interceptor, entry)
            elif entry is not None and not retry_unknown and (obstacle := _obstacle(entry)):
                self._fail(interceptor, obstacle)
            else:
                missing.append(interceptor)
        if missing:
            self._create_all(missing)
        ids = [interceptor.conversation_id for interceptor in self._settings.interceptors]
        return BootstrapReport(
            created=tuple(self._created),
            existing=tuple(self._existing),
            failed=tuple(Failure(each, self._failed[each]) for each in ids if each in self._failed),
            watched=tuple(each for each in ids if each not in self._failed and self._journal.is_watching(each)),
        )

    def _create_all(self, missing: list[InterceptorSettings]) -> None:
        obstacle = self._check_load()
        for interceptor in missing:
            if obstacle is not None:
                self._fail(interceptor, f"not attempted: {obstacle}")
                continue
            try:
                with self._shield():
                    self._create(interceptor)
            except (CredentialsError, AccessDeniedError) as error:
                obstacle = str(error)

    def _check_load(self) -> str | None:
        """Why nothing can be created now, or None."""
        allowed = self._settings.genesys.max_concurrent
        try:
            active = self._platform.check_load(allowed)
        except SaturationError as error:
            self._audit_load("refused", active_load=error.active, reason=str(error))
            return str(error)
        except GenesysError as error:
            self._audit_load("failed", active_load=None, reason=str(error))
            return str(error)
        self._audit_load("ok", active_load=active)
        return None

    def _audit_load(self, outcome: str, *, active_load: int | None, **details: object) -> None:
        self._audit.append(
            Action.INTERCEPTOR_VALIDATION,
            conversation=None,
            outcome=outcome,
            active_load=active_load,
            max_concurrent=self._settings.genesys.max_concurrent,
            **details,
        )

    def _create(self, interceptor: InterceptorSettings) -> None:
        """Create one interceptor; raises CredentialsError or AccessDeniedError once it is reported as failed."""
        conversation_id = interceptor.conversation_id
        before = self._registry.get(conversation_id)
        watch = before.watch if before is not None else None
        self._registry.put(conversation_id, InterceptorEntry(phase="creating", watch=watch))
        try:
            answer = self._platform.create_interceptor(
                conversation_id, create_body(interceptor, self._settings.genesys.interceptor)
            )
        except OutcomeUnknownError as error:
            entry = InterceptorEntry(phase="creating", reason=str(error), watch=watch)
            self._registry.put(conversation_id, entry)
            self._fail(interceptor, _obstacle(entry) or str(error))
            return
        except GenesysError as error:
            self._registry.put(conversation_id, InterceptorEntry(phase="failed", reason=str(error), watch=watch))
            self._fail(interceptor, str(error))
            if isinstance(error, (CredentialsError, AccessDeniedError)):
                raise
            return
        interceptor_id = _interceptor_id(answer)
        if mismatch := _rate_mismatch(answer, interceptor.audio_sampling_rate):
            entry = InterceptorEntry(
                phase="failed", interceptor_id=interceptor_id or "(not told)", reason=mismatch, watch=watch
            )
            self._registry.put(conversation_id, entry)
            self._fail(interceptor, mismatch)
            return
        entry = InterceptorEntry(phase="created", interceptor_id=interceptor_id)
        self._registry.put(conversation_id, entry)
        self._audit.append(
            Action.INTERCEPTOR_CREATED, conversation=conversation_id, outcome="ok", interceptor_id=interceptor_id
        )
        self._created.append(conversation_id)
        self._watch(interceptor, entry)

    def _watch(self, interceptor: InterceptorSettings, entry: InterceptorEntry) -> None:
        record = self._settings.watch_of(interceptor)
        if entry.watch == record:
            return
        # In this order: a crash in between journals the same watch once more, which changes nothing.
        self._journal.watch(record)
        self._registry.put(interceptor.conversation_id, replace(entry, watch=record))

    def _fail(self, interceptor: InterceptorSettings, reason: str) -> None:
        self._failed[interceptor.conversation_id] = reason
        self._audit.append(
            Action.INTERCEPTOR_FAILED, conversation=interceptor.conversation_id, outcome="failed", reason=reason
        )


def _obstacle(entry: InterceptorEntry) -> str | None:
    """Why an interceptor that did not come to be must not be asked for again, or None if it may be."""
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
    """The words for an answer that names another sampling rate than was asked for, or None."""
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
