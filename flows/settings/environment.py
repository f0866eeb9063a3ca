"""Environment variables as settings: which variable sets which key, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from pydantic import BaseModel

from flows.settings.errors import Key, credential_advice, did_you_mean

__all__ = ["PREFIX", "Overrides", "read_overrides", "tables_of"]

PREFIX = "VOICEWATCH_"


@dataclass(slots=True)
class Overrides:
    """What the environment sets: values in nested tables, the variable behind each key, and the mistakes made."""

    tables: dict[str, Any] = field(default_factory=dict)
    variables: dict[Key, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def tables_of(model: type[BaseModel]) -> dict[Key, type[BaseModel]]:
    """Return the model of every table, by its key; a list of tables has the key of the list."""
    tables: dict[Key, type[BaseModel]] = {(): model}
    for name, info in model.model_fields.items():
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                tables |= {(info.alias or name, *key): table for key, table in tables_of(kind).items()}
    return tables


def read_overrides(model: type[BaseModel], environ: Mapping[str, str], not_settings: frozenset[str]) -> Overrides:
    """Return what the variables VOICEWATCH_<TABLE>__<KEY> set; one underscore between table and key will do.

    A variable of that prefix that is neither a setting nor one of `not_settings` is a mistake. An empty one
    counts as unset. Values get the type of their key if they can; if not, they stay text, which the model will refuse.
    """
    names = {name for name in environ if name.startswith(PREFIX)} - not_settings
    overrides = Overrides()
    if not names:
        return overrides
    keys = {"__".join(key): key for key in _scalar_keys(model)}
    by_single_underscores = {name.replace("__", "_"): key for name, key in keys.items()}
    for name in sorted(names):
        asked = name.removeprefix(PREFIX)
        key = by_single_underscores.get(asked.lower().replace("__", "_"))
        if key is None:
            advice = credential_advice(asked.rpartition("__")[2])
            advice = advice or f"unknown variable{_did_you_mean(asked, keys)}"
            overrides.mistakes.append(f"{name if name.isprintable() else ascii(name)}: {advice}")
        elif environ[name]:
            _take(overrides, model, name, key, environ)
    return overrides


def _did_you_mean(asked: str, keys: Iterable[str]) -> str:
    # Compared without the prefix, which all have in common and which would make everything similar.
    return did_you_mean(asked, [key.upper() for key in keys]).replace("mean ", f"mean {PREFIX}")


def _scalar_keys(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Return the keys of all tables but those in lists."""
    keys: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += [(name, *key) for key in _scalar_keys(info.annotation)]
        elif info.alias is None:
            keys.append((name,))
    return keys


def _take(
    overrides: Overrides, model: type[BaseModel], name: str, key: tuple[str, ...], environ: Mapping[str, str]
) -> None:
    other = overrides.variables.get(key)
    if other is not None:
        if environ[other] != environ[name]:
            overrides.mistakes.append(f"{name}: {other} sets the same key to another value")
        return
    # Importing it costs more than everything else here together, and most runs set no variable.
    from pydantic_settings import EnvSettingsSource
    from pydantic_settings.exceptions import SettingsError

    source = EnvSettingsSource(cast(Any, model), env_prefix="", env_nested_delimiter="__")
    source.env_vars = {"__".join(key): environ[name]}
    try:
        value: Any = source()
    except SettingsError:
        overrides.mistakes.append(f'{name}: must be JSON, like ["mono", "stereo"]')
        return
    for part in key:
        value = value[part]
    table = overrides.tables
    for part in key[:-1]:
        table = table.setdefault(part, {})
    table[key[-1]] = value
    overrides.variables[key] = name
