"""The state directory of a configuration, without its other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.errors import ConfigurationError
from flows.settings.loading import load_settings
from flows.settings.toml_file import state_dir


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("", {}),
        ("[state]\nkeep_hours = 5\n", {}),
        ('[state]\ndir = "over/there"\n', {}),
        ('state.dir = "a"\n', {"VOICEWATCH_STATE_DIR": "b"}),
        ('[state]\ndir = "a"\n', {"VOICEWATCH_STATE__DIR": "b c"}),
        ('[state]\ndir = "a"\n', {"VOICEWATCH_state_dir": "b"}),
        ('[state]\ndir = "a"\n', {"VOICEWATCH_STATE_DIR": "", "voicewatch_state_dir": "b"}),
        ('[state]\ndir = "a"\n', {"VOICEWATCH_STATE_DIR": "b", "VOICEWATCH_STATE__DIR": "b"}),
    ],
)
def test_it_is_that_of_the_settings(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    """The file, then the default, and the environment before both."""
    path = tmp_path / "voicewatch.toml"
    path.write_text(text)
    assert state_dir(path, environ) == load_settings(path, environ).state.dir


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("state = 1\n", {}),
        ("[state]\ndir = 1\n", {}),
        ('[state]\ndir = " "\n', {}),
        ('[state]\ndir = "a\\u0000b"\n', {}),
        ("", {"VOICEWATCH_STATE_DIR": "b", "VOICEWATCH_STATE__DIR": "c"}),
    ],
)
def test_a_mistake_in_it_is_left_to_the_settings(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    """They refuse it, and say why."""
    path = tmp_path / "voicewatch.toml"
    path.write_text(text)
    assert state_dir(path, environ) is None
    with pytest.raises(ConfigurationError):
        load_settings(path, environ)


def test_mistakes_in_other_tables_do_not_matter(tmp_path: Path) -> None:
    """Callbacks can be listed while a configuration is being changed; what is not TOML is a mistake."""
    path = tmp_path / "voicewatch.toml"
    path.write_text('[state]\ndir = "there"\n[alerts]\nraise_n = "many"\n')
    assert state_dir(path, {}) == Path("there")
    path.write_text("[state\n")
    with pytest.raises(ConfigurationError, match=r"line 1.* is no TOML"):
        state_dir(path, {})
