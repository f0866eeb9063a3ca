"""Create an interceptor for every conversation to be watched, and write its watch record to the journal.

Running it again creates none twice. What each create came to is written down before and after the request
(`connectors.state.interceptors`); one whose outcome is not known is never repeated unless the caller asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError, SaturationError
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import GenesysClient
from connectors.genesys.credentials import credentials_from_environment
from connectors.genesys.interceptors import GenesysPlatform
from connectors.runtime.tracing import configure_tracing
from connectors.state.actions import Action
from connectors.state.audit import AuditLog
from connectors.state.files import StateLock, check_writable
from connectors.state.interceptors import InterceptorRegistry
from flows.feeds import endpoints_of
from flows.interceptors import AuditTrail, InterceptorCreator, Platform, WatchJournal, obstacle_of
from flows.live import open_journal
from flows.settings.models import InterceptorSettings, Settings
from flows.state import StateLayout

__all__ = ["BootstrapReport", "Failure", "Shield", "bootstrap", "run_bootstrap"]

Shield = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a signal waits until the end."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Name a conversation without a usable interceptor, and the reason."""

    conversation_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BootstrapReport:
    """Hold the result of a bootstrap, by conversation id, in the order of the configuration.

    `created` now, `existing` from an earlier run, `failed` with the reason; each conversation is in one of them.
    `watched` are those whose watch is in force: created, and the conversation has not ended.
    """

    created: tuple[str, ...]
    existing: tuple[str, ...]
    failed: tuple[Failure, ...]
    watched: tuple[str, ...]


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
    creator = InterceptorCreator(settings, platform, registry, journal, audit)
    return _Bootstrap(creator, shield).run(retry_unknown=retry_unknown)


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
    def __init__(self, creator: InterceptorCreator, shield: Shield) -> None:
        self._creator = creator
        self._shield = shield
        self._created: list[str] = []
        self._existing: list[str] = []
        self._failed: dict[str, str] = {}

    def run(self, *, retry_unknown: bool) -> BootstrapReport:
        missing = []
        for interceptor in self._creator.settings.interceptors:
            entry = self._creator.registry.get(interceptor.conversation_id)
            if entry is not None and entry.phase == "created":
                self._existing.append(interceptor.conversation_id)
                self._creator.watch(interceptor, entry)
            elif entry is not None and not retry_unknown and (obstacle := obstacle_of(entry)):
                self._fail(interceptor, obstacle)
            else:
                missing.append(interceptor)
        if missing:
            self._create_all(missing)
        ids = [interceptor.conversation_id for interceptor in self._creator.settings.interceptors]
        return BootstrapReport(
            created=tuple(self._created),
            existing=tuple(self._existing),
            failed=tuple(Failure(each, self._failed[each]) for each in ids if each in self._failed),
            watched=tuple(each for each in ids if each not in self._failed and self._creator.journal.is_watching(each)),
        )

    def _create_all(self, missing: list[InterceptorSettings]) -> None:
        obstacle = self._check_load()
        for interceptor in missing:
            if obstacle is not None:
                self._fail(interceptor, f"not attempted: {obstacle}")
                continue
            try:
                with self._shield():
                    reason = self._creator.create(interceptor)
            except (CredentialsError, AccessDeniedError) as error:
                obstacle = reason = str(error)
            if reason is None:
                self._created.append(interceptor.conversation_id)
            else:
                self._failed[interceptor.conversation_id] = reason

    def _check_load(self) -> str | None:
        """Return why nothing can be created now, None if it can."""
        allowed = self._creator.settings.genesys.max_concurrent
        try:
            active = self._creator.platform.check_load(allowed)
        except SaturationError as error:
            self._audit_load("refused", active_load=error.active, reason=str(error))
            return str(error)
        except GenesysError as error:
            self._audit_load("failed", active_load=None, reason=str(error))
            return str(error)
        self._audit_load("ok", active_load=active)
        return None

    def _audit_load(self, outcome: str, *, active_load: int | None, **details: object) -> None:
        self._creator.audit.append(
            Action.INTERCEPTOR_VALIDATION,
            conversation=None,
            outcome=outcome,
            active_load=active_load,
            max_concurrent=self._creator.settings.genesys.max_concurrent,
            **details,
        )

    def _fail(self, interceptor: InterceptorSettings, reason: str) -> None:
        self._failed[interceptor.conversation_id] = reason
        self._creator.report_failure(interceptor.conversation_id, reason)
