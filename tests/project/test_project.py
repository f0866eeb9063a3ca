"""The project around the code: the advice to a fresh machine, the locked versions, the package that is built."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-runtime.lock")


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def fake_python(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if not line.startswith(" "))


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 3.10", "3.10"),
        ("echo 3.13", "3.13"),
        ("echo 2.7", "2.7"),
        ("exit 127", "does not run"),
        (
            'case "$2" in *ensurepip*) exit 1;; *) echo 3.12;; esac',
            "3.12 without venv (on Debian and Ubuntu: apt install python3.12-venv)",
        ),
    ],
)
def test_an_unfit_python_is_named_with_the_remedy(tmp_path: Path, script: str, found: str) -> None:
    """On a machine without a fit Python, make says what was found and what to install, and leaves nothing behind."""
    python = fake_python(tmp_path / "python", script)
    done = run_make("venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "voicewatch needs Python 3.11 or 3.12" in done.stderr
    assert f"{python}: {found}\n" in done.stderr
    assert "https://www.python.org/downloads/" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python_at_all_is_said(tmp_path: Path) -> None:
    """Without any interpreter, make says which commands it looked for."""
    done = run_make("test", f"PYTHON={tmp_path / 'none'}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert f"Found here: none (looked for {tmp_path / 'none'})" in done.stderr


def test_make_alone_lists_the_targets() -> None:
    """Make without a target does nothing but list what there is."""
    done = run_make()
    assert done.returncode == 0
    targets = "venv demo test coverage lint types contracts check docs bench soak fuzz"
    for target in [*targets.split(), "audit-deps", "check-lowest", "canary", "lock", "clean"]:
        assert re.search(rf"^make {target} +\w", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", [*LOCKS, "requirements-fuzz.lock"])
def test_a_lock_holds_versions_and_hashes_and_no_addresses(name: str) -> None:
    """Every line is a version or a hash: nothing in it depends on where it was made or is used."""
    requirement = re.compile(
        r"[a-z0-9-]+==[0-9][a-z0-9.]*( ; [a-z_]+ [<>=!]+ '[\w.]+'( (and|or) [a-z_]+ [<>=!]+ '[\w.]+')*)? \\"
    )
    a_hash = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")
    for line in (ROOT / name).read_text().splitlines():
        assert requirement.fullmatch(line) or a_hash.fullmatch(line), line


def test_the_locks_agree_with_each_other_and_with_the_project() -> None:
    """Every requirement of the project is locked within its limits, to one version."""
    everything, runtime = (locked(name) for name in LOCKS)
    assert runtime.items() <= everything.items()
    needed = PROJECT["project"]["dependencies"]
    for lines, lock in ((needed, runtime), (needed + PROJECT["dependency-groups"]["dev"], everything)):
        for requirement in map(Requirement, lines):
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), requirement


def test_the_wheel(tmp_path: Path) -> None:
    """The wheel builds offline, has version and licence, and cannot be published by accident."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [path] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        commands = wheel.read(f"{info}/entry_points.txt").decode()
    assert metadata["Name"] == "voicewatch"
    assert metadata["Version"] == PROJECT["project"]["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert f"{info}/licenses/LICENSE" in names
    assert "voicewatch = flows.__main__:main" in commands
    assert {name.partition("/")[0] for name in names} == {"connectors", "flows", info}
    assert {"connectors/py.typed", "flows/py.typed", "flows/settings/models.py"} <= set(names)


def test_the_changelog_knows_the_version() -> None:
    """The version of the project has its section."""
    assert f"## [{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_whole_licence() -> None:
    """The file is the text of the Apache License 2.0, from its name to its appendix."""
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


def test_ci_runs_the_checks() -> None:
    """The CI script can be executed and runs `make check`, nothing else."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "exec make check" in script.read_text()


@pytest.mark.parametrize(
    ("said", "code", "expected", "told"),
    [
        ("No known vulnerabilities found", 0, 0, "no known vulnerability"),
        ("Found 1 known vulnerability in 1 package", 1, 1, "Found 1 known vulnerability"),
        ("Found 2 known vulnerabilities in 1 package", 1, 1, "Found 2 known vulnerabilities"),
        ("ERROR: httpx: Dependency not found on PyPI and could not be audited", 1, 2, "NOTHING WAS AUDITED"),
        ("No known vulnerabilities found, 40 skipped", 1, 2, "NOTHING WAS AUDITED"),
        ("", 0, 2, "NOTHING WAS AUDITED"),
    ],
)
def test_an_audit_that_could_not_ask_is_no_good_news(
    tmp_path: Path, said: str, code: int, expected: int, told: str
) -> None:
    """Vulnerabilities fail the audit, and so does an advisory service that cannot be asked, in other words."""
    uv = fake_python(tmp_path / "uv", f"echo '{said}'; exit {code}")
    done = subprocess.run([ROOT / ".ci/audit-deps", uv], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected
    assert told in done.stdout + done.stderr


PASSED = "PASSED tests/x.py::test_a"


@pytest.mark.parametrize(
    ("here", "there", "installs", "expected", "said"),
    [
        (PASSED, PASSED, True, 0, "canary: 1 tests have the same results on bytewax-fork 9.9"),
        (PASSED, "FAILED tests/x.py::test_a - boom", True, 1, "bytewax-fork: tests/x.py::test_a FAILED"),
        (PASSED, "ImportError: bytewax", True, 1, "bytewax:      tests/x.py::test_a PASSED"),
        ("no tests ran", "no tests ran", True, 2, "NOTHING WAS COMPARED"),
        (PASSED, PASSED, False, 2, "NOTHING WAS COMPARED"),
    ],
)
def test_the_canary_says_what_differs(
    tmp_path: Path, here: str, there: str, installs: bool, expected: int, said: str
) -> None:
    """Other results on the fork fail, with the tests and both results; nothing that ran is not called the same."""
    venv = tmp_path / "canary"
    (venv / "bin").mkdir(parents=True)
    fake_python(tmp_path / "python", f"echo '{here}'")
    fake_python(venv / "bin/python", f"echo '{there}'")
    uv = fake_python(tmp_path / "uv", "exit 0" if installs else "exit 1")
    done = subprocess.run([ROOT / ".ci/canary", uv, venv, "9.9"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, done.stderr
    assert said in done.stdout + done.stderr


def test_the_image_runs_the_command_as_nobody_special() -> None:
    """The container's first process is voicewatch itself, so that signals reach it, and it is not root's."""
    last_stage = (ROOT / "docker/Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert 'ENTRYPOINT ["voicewatch"]' in last_stage
    assert "\nUSER 10001:10001\n" in last_stage
