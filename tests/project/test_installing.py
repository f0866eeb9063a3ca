"""The package as people install it: built as sdist and wheel, installed by uv and pipx, refused where it cannot run.

The installations need the network, for the packages that voicewatch depends on; without it they are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.cli import ROOT, environ

UV = Path(sys.executable).with_name("uv")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not UV.exists(), reason="uv is not installed beside this Python"),
]


def run(*arguments: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command without a virtual environment around it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(each) for each in arguments], cwd=cwd, env=kept | more, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    done = run(UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, ROOT)
    assert done.returncode == 0, done.stderr
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="module")
def _network(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip the test if the package index cannot be reached."""
    needed = tmp_path_factory.mktemp("needed") / "needed.in"
    needed.write_text("hatchling\n")
    done = run(UV, "pip", "compile", "--quiet", "--no-header", needed, UV_HTTP_TIMEOUT="10")
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")


def test_a_wheel_holds_both_packages_and_their_types(built: Mapping[str, Path]) -> None:
    """Code, templates and `py.typed` are in the wheel; tests and examples are not."""
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = wheel.namelist()
    assert {"connectors/py.typed", "flows/py.typed", "connectors/operators.py", "flows/web/templates/base.html"} <= {
        *names
    }
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"connectors", "flows"}


def test_an_sdist_holds_what_its_tests_need(built: Mapping[str, Path]) -> None:
    """Tests, examples, pages and lock files are in the sdist, and nothing that git ignores."""
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"tests/project/test_installing.py", "examples/lossy_frames.py", "docs/cli.md", "requirements.lock"} <= names
    assert not [name for name in names if name.startswith((".venv", "state/")) or name.endswith(".pyc")]


def test_the_metadata_says_what_it_is_and_where_it_runs(built: Mapping[str, Path]) -> None:
    """An installer learns the versions of Python that Bytewax has wheels for, people learn licence and systems."""
    with zipfile.ZipFile(built["wheel"]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(wheel.read(name))
    assert metadata["Requires-Python"] == "<3.13,>=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    classifiers = metadata.get_all("Classifier", [])
    assert {"Operating System :: POSIX :: Linux", "Typing :: Typed"} <= {*classifiers}


@pytest.mark.usefixtures("_network")
@pytest.mark.parametrize("form", ["wheel", "sdist"])
@pytest.mark.parametrize("installer", ["uv", "pipx"])
def test_it_installs_as_a_tool(built: Mapping[str, Path], tmp_path: Path, installer: str, form: str) -> None:
    """`voicewatch` runs from an environment that holds nothing else, and replays without a network."""
    places = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "pipx", "PIPX_BIN_DIR": "bin"}
    variables = {"PATH": f"{UV.parent}{os.pathsep}{os.environ['PATH']}"}  # pipx looks for uv: its pip takes minutes
    variables |= {name: str(tmp_path / place) for name, place in places.items()}
    uv = [UV, "tool", "install"] if installer == "uv" else [UV, "tool", "run", "pipx", "install", "--backend", "uv"]
    done = run(*uv, "--python", sys.executable, built[form], **variables)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    command = tmp_path / "bin/voicewatch"
    assert run(command, "--version").stdout.startswith("voicewatch ")
    recording = ROOT / "tests/data/three-minutes.jsonl"
    done = run(command, "replay", recording, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/windows.jsonl").stat().st_size > 0


@pytest.mark.usefixtures("_network")
def test_an_installer_refuses_another_python(built: Mapping[str, Path]) -> None:
    """For a Python that Bytewax has no wheel for, the installer fails, and names what is in the way."""
    source = built["wheel"].with_name("needed.in")
    source.write_text(f"voicewatch @ {built['wheel'].as_uri()}\n")
    done = run(UV, "pip", "compile", "--python-version", "3.13", "--quiet", source)
    assert done.returncode != 0
    assert "bytewax" in done.stderr or "voicewatch" in done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("version_info = (3, 13, 0, 'final', 0)", "this is 3.13: Bytewax has no wheel for it; install it with"),
        ("version_info = (3, 10, 2, 'final', 0)", "this is 3.10: it is too old; install it with"),
        ("platform = 'win32'", "runs on Linux and macOS; on Windows, use WSL or the container image"),
    ],
)
def test_a_checkout_refuses_another_python(change: str, reason: str) -> None:
    """Started where it cannot run, the command is exit 2 with one line."""
    script = f"import sys; sys.{change}; from flows.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ({}), capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("voicewatch: ")
    assert reason in line
