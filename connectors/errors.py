"""The errors that voicewatch raises, named by what their reader can do about them.

::

    VoicewatchError
    ├── UsageError            change the call or the input, nothing was started          exit 2
    │   ├── ConfigurationError    the configuration file; `mistakes` lists all of them
    │   └── RecordingError        a recording: unreadable, empty, overlapping, not UTF-8
    ├── StateError            the state directory: locked, unwritable, full             exit 1
    │   └── UnusableStateError    damaged, or of another version: a restart does not help  exit 2
    └── GenesysError          Genesys refused or was out of reach; `status` if it spoke  exit 1
        ├── CredentialsError      401: id, secret, client type or grant
        │   └── MissingCredentialsError   the environment holds none                     exit 2
        ├── AccessDeniedError     403: a role or scope is missing
        ├── SaturationError       the load check: `active` of `allowed` conversations
        ├── UnavailableError      429 beyond patience, 5xx, refused, timed out
        └── OutcomeUnknownError   a create was sent and not answered: it may have happened
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AccessDeniedError",
    "ConfigurationError",
    "CredentialsError",
    "GenesysError",
    "MissingCredentialsError",
    "OutcomeUnknownError",
    "RecordingError",
    "SaturationError",
    "StateError",
    "UnavailableError",
    "UnusableStateError",
    "UsageError",
    "VoicewatchError",
]


class VoicewatchError(Exception):
    """Any failure that voicewatch explains; its text says what, where and what to do."""

    exit_code = 1


class UsageError(VoicewatchError):
    """The call or its input is wrong; nothing was started."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A configuration cannot be used; `mistakes` holds one line for each mistake in it."""

    def __init__(self, where: str, mistakes: Sequence[str]) -> None:
        self.where = where
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join([f"{where}:", *(f"  {mistake}" for mistake in self.mistakes)]))


class RecordingError(UsageError):
    """A recording cannot be replayed."""


class StateError(VoicewatchError):
    """The state directory cannot be used."""


class UnusableStateError(StateError):
    """A part of the state directory is damaged or of another version; a restart does not help."""

    exit_code = 2


class GenesysError(VoicewatchError):
    """Genesys refused a request or could not be reached; `status` is its HTTP status, if it answered."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class CredentialsError(GenesysError):
    """Genesys does not accept the client's credentials or its token (401)."""


class MissingCredentialsError(CredentialsError):
    """The environment does not hold the client's credentials; a restart does not help."""

    exit_code = 2


class AccessDeniedError(GenesysError):
    """The client lacks a role or a scope (403)."""


class SaturationError(GenesysError):
    """The organisation already has `active` voice conversations, and `allowed` is the limit set."""

    def __init__(self, active: int, allowed: int) -> None:
        self.active = active
        self.allowed = allowed
        super().__init__(
            f"bandwidth saturation: {active} voice conversations are active and max_concurrent is {allowed}; "
            "wait until fewer are active, or raise [genesys] max_concurrent"
        )


class UnavailableError(GenesysError):
    """Genesys is rate-limiting, failing or out of reach, and stayed so through every retry."""


class OutcomeUnknownError(GenesysError):
    """A request that must not be repeated was sent and no clear answer came: it may have taken effect."""
