"""`voicewatch check --online`: try the token, and the load check if interceptors are used."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.genesys.auth import TokenProvider, credentials_from_environment
from connectors.genesys.client import GenesysClient
from connectors.genesys.interceptors import GenesysPlatform
from flows.feeds import endpoints_of
from flows.settings.models import Settings

__all__ = ["check_online"]


def check_online(settings: Settings, environ: Mapping[str, str]) -> str:
    """Try the token, and the load check if interceptors are used; a line that says how it went. Raises GenesysError."""
    kinds = {feed.kind for feed in settings.feeds}
    if kinds and kinds <= {"audiohook", "eventbridge"}:
        return "online: nothing to try, Genesys connects to the feeds"
    endpoints = endpoints_of(settings)
    tokens = TokenProvider(endpoints, credentials_from_environment(environ))
    if not settings.uses_interceptors:
        tokens.token()
        return "online: token received"
    active = GenesysPlatform(GenesysClient(endpoints, tokens, sdk=True)).check_load(settings.genesys.max_concurrent)
    allowed = settings.genesys.max_concurrent
    return f"online: token received, {active} active voice conversation(s), {allowed} allowed"
