"""Read the credentials of an OAuth client from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.errors import MissingCredentialsError

__all__ = ["Credentials", "credentials_from_environment"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """An OAuth client's id and secret; neither shows in its repr."""

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)


def credentials_from_environment(environ: Mapping[str, str]) -> Credentials:
    """Read `GENESYS_CLIENT_ID` and `GENESYS_CLIENT_SECRET`; raises `MissingCredentialsError` naming what is missing."""
    names = ("GENESYS_CLIENT_ID", "GENESYS_CLIENT_SECRET")
    missing = [name for name in names if not environ.get(name, "").strip()]
    if missing:
        raise MissingCredentialsError(
            f"{' and '.join(missing)} not set; export the id and secret of a Genesys OAuth client with the grant "
            "type Client Credentials (they are read from the environment only)"
        )
    return Credentials(*(environ[name].strip() for name in names))
