"""Read a configuration: a TOML file with the environment on top, and every mistake in them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from connectors.errors import ConfigurationError
from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE
from flows.settings.environment import Overrides, read_overrides, tables_of
from flows.settings.errors import explain_error, toml_key
from flows.settings.models import Settings
from flows.settings.toml_file import read_toml
from flows.settings.warnings import CALLBACK_SECRET
from flows.settings.web import WEB_TOKEN

__all__ = ["load_settings", "parse_settings"]

_NOT_SETTINGS = frozenset(
    {
        "VOICEWATCH_CONFIG",
        "VOICEWATCH_LOG_JSON",
        "VOICEWATCH_RUN_ID",
        "VOICEWATCH_STOP_WITH_STDIN",
        CALLBACK_SECRET,
        SECRETS_VARIABLE,
        WEB_TOKEN,
    }
)


def load_settings(path: Path | str, environ: Mapping[str, str]) -> Settings:
    """Return the configuration in a TOML file, with the variables of `environ` on top.

    Raise ConfigurationError, which names the file and lists every mistake in it and in the variables, each with its
    key; a file that cannot be read or is not TOML is one mistake.
    """
    return parse_settings(read_toml(path), str(path), environ)


def parse_settings(
    tables: Mapping[str, Any], where: str, environ: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """Return the configuration in tables as `tomllib` gives them; a ConfigurationError names it by `where`.

    Raises ConfigurationError, which lists every mistake in the tables and in the variables of `environ`.
    """
    overrides = read_overrides(Settings, environ, _NOT_SETTINGS)
    merged = _merged({key: value for key, value in tables.items() if key != "$schema"}, overrides.tables)
    mistakes = list(overrides.mistakes)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        mistakes += _mistakes(error, merged, overrides)
    if mistakes:
        raise ConfigurationError(where, mistakes)
    return settings


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both in one; where both have a value, that of `above`, unless it is a table put where no table belongs."""
    merged = dict(below)
    for key, value in above.items():
        if not isinstance(value, Mapping):
            merged[key] = value
        elif isinstance(old := merged.get(key, {}), Mapping):
            merged[key] = _merged(old, value)
    return merged


def _mistakes(error: ValidationError, tables: Mapping[str, Any], overrides: Overrides) -> Iterator[str]:
    """Yield a line for each of Pydantic's errors; those of a default only once, where it was written."""
    models = tables_of(Settings)
    defaults = tables.get("defaults")
    for details in error.errors(include_url=False):
        key = details["loc"]
        if key[:2] == ("feed", 0) and isinstance(tables.get("feed"), Mapping):
            key = ("feed", *key[2:])  # written as one table, not as a list
        if key[:1] == ("interceptor",) and len(key) > 2 and isinstance(defaults, Mapping) and key[2] in defaults:
            row = tables["interceptor"][key[1]]
            if key[2] not in row:
                continue
        model = models.get(tuple(part for part in key[:-1] if isinstance(part, str)))
        known = [info.alias or name for name, info in model.model_fields.items()] if model else []
        variable = overrides.variables.get(key)
        yield f"{toml_key(key)}: {explain_error(details, known)}" + (f" [from {variable}]" if variable else "")
