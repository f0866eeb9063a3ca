"""Write the reference pages `docs/configuration.md` and `docs/cli.md`; `make docs` runs this module.

The part of a page above the marker line is written by hand. The part below is generated: the configuration from the
Pydantic models (type, limits, default and `Field(description=…)`), the commands from Typer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperArgument
from typer.main import get_command

from flows.cli import app
from flows.settings import values
from flows.settings.models import Settings

__all__ = ["MARKER", "Reference", "commands", "configuration_tables", "is_listed", "reference_pages"]

DOCS = Path(__file__).parents[2] / "docs"
MARKER = "<!-- Generated from here on: edit the code, then run `make docs`. -->"

# What a validator accepts, in words.
_ALLOWED: dict[Any, str] = {
    values.non_empty: "text",
    values.sip_address: "`sip:` or `sips:` address",
    values.language_tag: "BCP 47 tag",
    values.url_path: "path",
    values.conversation_path: "path with `{conversationId}`",
    values.host_and_port: "host and port",
    values.feed_name: "letters, digits, `.`, `-` and `_`, at most 64",
    values.topic_id: "id",
    values.platform_topic: "topic",
    values.api_key: "API key",
}


class Reference(list[tuple[str, str]]):
    """The generated sections of a page, each with its heading and its text."""

    def __str__(self) -> str:
        return "\n".join(f"## {heading}\n\n{text}" for heading, text in self)


def configuration_tables(
    model: type[BaseModel] = Settings, prefix: str = ""
) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Yield the header, the description and the model of each table of the configuration, outer tables first."""
    for name, field in model.model_fields.items():
        table, is_list = _table_of(field)
        if table is not None:
            key = f"{prefix}{field.alias or name}"
            yield (f"[[{key}]]" if is_list else f"[{key}]"), field.description or "", table
            yield from configuration_tables(table, f"{key}.")


def is_listed(field: FieldInfo) -> bool:
    """Return whether a field is a row of its table; a nested table has a section instead."""
    return _table_of(field)[0] is None


def _table_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """Return the model of a field that is a table or a list of tables, and whether it is a list."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind, get_origin(field.annotation) is tuple
    return None, False


def _configuration() -> Reference:
    sections = Reference()
    for header, description, table in configuration_tables():
        rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        fields = sorted(table.model_fields.items(), key=lambda item: not item[1].is_required())
        for name, field in fields:
            if is_listed(field):
                cells = (f"`{field.alias or name}`", _default(field), _allowed(field), field.description or "")
                rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        sections.append((f"`{header}`", f"{description[:1].upper()}{description[1:]}.\n\n" + "\n".join(rows) + "\n"))
    return sections


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _allowed(field: FieldInfo) -> str:
    return _checked(field.metadata) or _of_type(field.annotation)


def _checked(metadata: Any) -> str:
    """Return what the validators among a type's metadata accept; empty if they are not known."""
    for each in metadata:
        check = each.func if isinstance(each, AfterValidator) else None
        if isinstance(check, values.Between):
            return f"{_number(check.low)} to {_number(check.high)}"
        if isinstance(check, values.UrlRule):
            return {"http": "http(s) URL", "ws": "ws(s) URL"}[check.schemes[0]]
        if check in _ALLOWED:
            return _ALLOWED[check]
    return ""


def _of_type(kind: Any) -> str:
    """Return what a type accepts, in words."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{word}"`' for word in kinds)
    if get_origin(kind) is tuple:
        items = _of_type(kinds[0])
        return f"list of {items if items.startswith('`') else items + 's'}"
    if hasattr(kind, "__metadata__"):
        return _checked(kind.__metadata__) or _of_type(kind.__origin__)
    if kinds:  # X | None
        return _of_type(kinds[0])
    return {str: "text", bool: "`true`, `false`", int: "whole number", float: "number", Path: "path"}[kind]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def commands(group: Any = None, names: tuple[str, ...] = ("voicewatch",)) -> Iterator[tuple[str, Any]]:
    """Yield each command of the Typer app with its whole name."""
    group = group or get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


def _cli() -> Reference:
    sections = Reference()
    for name, command in commands():
        arguments = [each for each in command.params if isinstance(each, TyperArgument)]
        options = [each for each in command.params if not isinstance(each, TyperArgument)]
        options = [each for each in options if not {"--help", "--log-json"} & set(each.opts)]
        usage = " ".join([name, *(_metavar(each) for each in arguments), *(_usage(each) for each in options)])
        text = f"```\n{usage}\n```\n\n{' '.join((command.help or '').split())}\n"
        rows = [
            (f"`{_metavar(each)}`", "required" if each.required else "", each.help or "")
            for each in arguments
            if each.help
        ]
        rows += [(f"`{', '.join(each.opts)}`", _option_default(each), _option_meaning(each)) for each in options]
        if rows:
            text += "\n| argument or option | default | meaning |\n|---|---|---|\n"
            text += "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
        sections.append((f"`{name}`", text))
    return sections


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _usage(option: Any) -> str:
    value = option.metavar or (option.name.upper() if option.type.name == "text" else "N")
    text = option.opts[0] if option.is_flag else f"{option.opts[0]} {value}"
    return text if option.required else f"[{text}]"


def _option_default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag or option.default is None:
        return ""
    value = option.default
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def _option_meaning(option: Any) -> str:
    low, high = getattr(option.type, "min", None), getattr(option.type, "max", None)
    allowed = f" {_number(low)} to {_number(high)}." if low is not None and high is not None else ""
    return f"{option.help or ''}{allowed}"


def reference_pages(docs: Path = DOCS) -> dict[Path, str]:
    """Return the text that each reference page should have, with its part above the marker as it is."""
    pages = {}
    for path, reference in ((docs / "configuration.md", _configuration()), (docs / "cli.md", _cli())):
        above, marker, _ = path.read_text().partition(MARKER)
        if not marker:
            raise ValueError(f"{path} has no line {MARKER}")
        pages[path] = f"{above}{MARKER}\n\n{reference}"
    return pages


if __name__ == "__main__":
    for page, text in reference_pages().items():
        page.write_text(text)
