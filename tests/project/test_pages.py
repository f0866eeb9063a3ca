"""The pages agree with the project: reference tables, make targets, metrics, links, files, lengths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from flows.settings import models
from flows.settings.values import Between
from tests.project.test_deployment import known_metrics
from tests.support.page_session import make_plan
from tests.support.pages import PAGES, ROOT, anchors, links
from tests.support.reference_pages import (
    MARKER,
    commands,
    configuration_tables,
    is_listed,
    reference_pages,
)

TABLES = {header: table for header, _, table in configuration_tables()}
REFERENCE = reference_pages()


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.name)
def test_the_reference_pages_are_up_to_date(page: Path) -> None:
    """The generated pages are those that the models and Typer give now."""
    assert page.read_text() == REFERENCE[page], f"{page.name} is stale: run make docs"


def test_a_page_without_the_marker_is_refused(tmp_path: Path) -> None:
    """A reference page that has lost its marker line is an error, and is not overwritten."""
    for name in ("configuration.md", "cli.md"):
        (tmp_path / name).write_text("# Written by hand\n")
    with pytest.raises(ValueError, match="has no line"):
        reference_pages(tmp_path)


def as_toml(field: FieldInfo) -> str:
    """Return a field's default as the table writes it."""
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    value = str(value) if isinstance(value, Path) else value
    return f"`{json.dumps(value)}`"


def limits(field: FieldInfo) -> list[str]:
    """Return what the table must say of a field's limits."""
    checks = [each.func for each in field.metadata if isinstance(each, AfterValidator)]
    said = [f"{check.low:g} to {int(check.high)}" for check in checks if isinstance(check, Between) and check.high >= 1]
    said += [f"{check.low:g} to {check.high:g}" for check in checks if isinstance(check, Between) and check.high < 1]
    if get_origin(field.annotation) is Literal:
        said += [f'`"{word}"`' for word in get_args(field.annotation)]
    return said


def table_rows(header: str) -> dict[str, list[str]]:
    """Return the rows of the section with a table's header, by the key in their first cell."""
    page = PAGES["docs/configuration.md"].partition(MARKER)[2]
    found = re.search(rf"^## `{re.escape(header)}`\n\n.+\n\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert found is not None, header
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[1].splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_table_of_the_configuration_is_listed() -> None:
    """Each table of settings has a section, and `[defaults]` has every key of an interceptor but its id."""
    names = {f"[[{f.alias}]]" if f.alias else f"[{name}]" for name, f in models.Settings.model_fields.items()}
    assert names <= TABLES.keys()
    assert {"[genesys.interceptor]", "[feed.defaults]"} <= TABLES.keys()
    assert models.InterceptorDefaults.model_fields.keys() == (
        models.InterceptorSettings.model_fields.keys() - {"conversation_id"}
    )


@pytest.mark.parametrize("header", TABLES)
def test_the_configuration_table_is_that_of_the_models(header: str) -> None:
    """A table lists exactly the keys of its model, each with its default, its limits and a meaning."""
    rows = table_rows(header)
    fields = {field.alias or name: field for name, field in TABLES[header].model_fields.items() if is_listed(field)}
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        default, allowed, meaning = rows[name]
        assert default == as_toml(field), name
        assert allowed, name
        assert all(limit in allowed for limit in limits(field)), name
        assert meaning, f"{header} {name} needs a Field(description=...)"


def test_every_table_says_what_it_is_for() -> None:
    """Each field that is a table has a description."""
    assert [header for header, description, _ in configuration_tables() if not description] == []


def test_the_command_page_is_that_of_the_program() -> None:
    """The page has a section for each command with all its options, and every command says what it does."""
    page = PAGES["docs/cli.md"].partition(MARKER)[2]
    sections = {text.partition("`")[0]: text for text in re.split(r"^## `", page, flags=re.MULTILINE)[1:]}
    assert sections.keys() == dict(commands()).keys()
    for name, command in commands():
        options = {option for each in command.params for option in each.opts if option.startswith("--")}
        assert set(re.findall(r"--[a-z][a-z-]*", sections[name])) >= options - {"--help", "--log-json"}, name
        assert command.help, name


@pytest.mark.parametrize("page", PAGES)
def test_the_make_targets_exist(page: str) -> None:
    """Every `make` command that a page names is one that make knows."""
    targets = set(re.findall(r"[`$] ?make ([a-z-]+)", PAGES[page]))
    if page == "CONTRIBUTING.md":
        assert {"demo", "test", "check"} <= targets
    if targets:
        plan = make_plan(*sorted(targets))
        assert plan.code == 0, plan


def test_contributing_lists_every_make_target() -> None:
    """The table of targets is that of the Makefile."""
    makefile = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^\| `make ([a-z-]+)", PAGES["CONTRIBUTING.md"], re.MULTILINE)
    assert set(listed) == set(makefile) - {"help"}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    """Links lead to files that exist, and to headings that are in them."""
    for target in links(page):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("page", PAGES)
def test_the_paths_named_exist(page: str) -> None:
    """Every file or folder of the repository that a page names in backticks is there."""
    for path in re.findall(r"`((?:connectors|flows|docker|docs|tests)/[a-zA-Z0-9_./-]+)`", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_the_operations_page_lists_every_metric() -> None:
    """Its table is that of the program."""
    tables = "".join(re.findall(r"^\|.*$", PAGES["docs/operations.md"], re.MULTILINE))
    listed = set(re.findall(r"`(voicewatch_[a-z_]+)`", tables))
    assert listed == {name for name in known_metrics() if name.startswith("voicewatch_")}


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    """The README has at most 200 lines, and links each page of docs/."""
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert {page for page in PAGES if page.startswith("docs/")} <= set(links("README.md"))
