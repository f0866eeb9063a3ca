"""Read what a configuration needs besides its file: secrets in the environment, and TLS files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from connectors.callbacks.secrets import SECRET_VARIABLE, parse_secrets
from connectors.errors import ConfigurationError
from flows.settings.feeds import WITHOUT_CLIENT
from flows.settings.kafka import kafka_connection
from flows.settings.models import Settings
from flows.settings.notify import notify_secrets
from flows.settings.web import WEB_TOKEN, WebSettings

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

__all__ = ["check_secrets", "secrets_of", "tls_context_of", "tls_of", "token_of", "uses_client"]

MIN_TOKEN: Final = 16


def check_secrets(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError for the first secret or TLS file that a run could not use."""
    secrets_of(environ)
    token_of(settings.web, environ)
    tls_of(settings)
    notify_secrets(settings.notify_targets, environ)
    kafka_connection(settings.kafka, environ)
    for feed in settings.feeds:
        tls_context_of(f"feed {feed.name}", feed.tls_cert, feed.tls_key)


def uses_client(settings: Settings) -> bool:
    """Return whether a run makes requests to Genesys, which needs the credentials of a client."""
    kinds = {feed.kind for feed in settings.feeds}
    resolves = settings.genesys.resolve_names and not kinds.isdisjoint({"eventbridge", "kafka"})
    return not kinds or resolves or not kinds <= WITHOUT_CLIENT


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets that sign callbacks. Raise ConfigurationError for a bad one."""
    return parse_secrets(environ.get(SECRET_VARIABLE, ""))


def token_of(web: WebSettings, environ: Mapping[str, str]) -> str | None:
    """Return the token that the page asks for; None if it asks for none, which only loopback allows.

    Raise ConfigurationError if one is needed or too short to be a secret.
    """
    token = environ.get(WEB_TOKEN, "").strip() or None
    if token is None and not web.is_local:
        raise ConfigurationError(
            WEB_TOKEN,
            [f"is not set, and web.listen ({web.listen}) can be reached from other machines; set it to a long secret"],
        )
    if token is not None and len(token) < MIN_TOKEN:
        raise ConfigurationError(WEB_TOKEN, [f"is shorter than {MIN_TOKEN} characters"])
    return token


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the AudioHook listener; None for plain connections (behind a proxy that ends TLS).

    Raise ConfigurationError for files that cannot be used.
    """
    return tls_context_of("audiohook", settings.audiohook.tls_cert, settings.audiohook.tls_key)


def tls_context_of(where: str, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS context of a server with a certificate, None without one.

    Raise ConfigurationError, which names `where`, for files that cannot be used.
    """
    if cert is None or key is None:
        return None
    import ssl

    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(where, [f"{name}: {path}: {error.strerror}"]) from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, ValueError) as error:
        mistake = f"tls_cert, tls_key: {cert} and {key} are not a PEM certificate with its key"
        raise ConfigurationError(where, [mistake]) from error
    return context
