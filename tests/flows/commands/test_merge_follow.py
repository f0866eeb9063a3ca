"""Groups over instances while these run: as one instance has them, also if some are late, silent or killed."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.errors import StateError, UsageError
from connectors.format.owners import Share
from connectors.runtime.shutdown import Shutdown
from flows.analytics.group_incidents import GroupIncidents
from flows.commands.merge import span_of_groups
from flows.commands.merge_follow import follow
from flows.commands.merge_members import Decision, Decisions, Members
from flows.settings.loading import parse_settings
from flows.web.parts import PartsFile, ServedParts
from tests.flows.commands.test_merge import TABLES, recorded, results
from tests.support.cli import configuration, voicewatch

SETTINGS = parse_settings(TABLES, "", {})
WITHIN_S = 30.0


class Follower:
    """Follows instances by a clock of its own; what it makes of groups."""

    def __init__(self, directories: Sequence[Path], decisions: Path) -> None:
        parts = {str(directory): PartsFile(directory) for directory in directories}
        self.members = Members(parts, Decisions(decisions), leave_out_after_s=WITHIN_S)
        self.incidents = GroupIncidents()
        self.now = 0.0
        self.groups: list[str] = []
        self.alerts: list[str] = []

    def go_on(self) -> None:
        """Take what there is."""
        while (parts := self.members.next_parts(self.now)) is not None:
            judged = self.incidents.apply([span_of_groups(SETTINGS, self.members.reached)], parts, [], last=False)
            self.groups += map(json.dumps, judged.lines)
            self.alerts += [alert.body.decode() for alert in judged.alerts]

    def killed(self, directories: Sequence[Path], decisions: Path) -> Follower:
        """Return one that goes on from a snapshot taken now."""
        other = Follower(directories, decisions)
        members = self.members
        other.members.resume(members.reached, members.followed, members.left_out)
        other.incidents.restore(self.incidents.snapshot())
        other.now = self.now
        return other


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def judged_by_one(whole: Path, upto: float) -> tuple[list[str], list[str]]:
    """Return the lines and the incidents of groups of one instance that watches everything, up to a time."""
    groups = [json.loads(line) for line in lines_of(whole / "groups.jsonl")]
    alerts = [line.decode().rstrip("\n") for line in lines_of(whole / "alerts.jsonl")]
    return (
        [json.dumps(line) for line in groups if line["end"] <= upto],
        [alert for alert in alerts if '"GROUP_DEGRADED"' in alert and json.loads(alert)["timestamp"] <= upto],
    )


@pytest.mark.parametrize("seed", range(4))
def test_followed_groups_are_those_of_one_instance(seed: int, tmp_path: Path) -> None:
    """The files grow by random pieces, also torn lines, and are cut back as after a crash; the follower is killed."""
    chance = random.Random(seed)
    lines = recorded(seed)
    whole = results(tmp_path / "whole", lines, Share(0, 1))
    sources = [results(tmp_path / f"{index}", lines, Share(index, 3)) for index in range(3)]
    targets = [tmp_path / f"live-{index}" for index in range(3)]
    texts = [(source / "parts.jsonl").read_bytes() for source in sources]
    for target in targets:
        target.mkdir()
    follower = Follower(targets, tmp_path / "decisions.jsonl")
    found: tuple[list[str], list[str]] = ([], [])
    sizes = [0, 0, 0]
    while sizes != [len(text) for text in texts]:
        which = chance.randrange(3)
        sizes[which] = min(len(texts[which]), sizes[which] + chance.randrange(20_000))
        if chance.random() < 0.1:  # cut back, to a whole line
            sizes[which] = texts[which].rfind(b"\n", 0, max(0, sizes[which] - 10_000)) + 1
        (targets[which] / "parts.jsonl").write_bytes(texts[which][: sizes[which]])
        follower.go_on()
        if chance.random() < 0.1:
            found[0].extend(follower.groups)
            found[1].extend(follower.alerts)
            follower = follower.killed(targets, tmp_path / "decisions.jsonl")
    follower.go_on()
    found[0].extend(follower.groups)
    found[1].extend(follower.alerts)
    upto = min(json.loads(lines_of(source / "parts.jsonl")[-1])["until"] for source in sources)
    assert follower.members.reached == upto
    assert found == judged_by_one(whole, upto)
    assert len(found[0]) > 20
    assert not (tmp_path / "decisions.jsonl").exists()


def write_parts(directory: Path, ends: Sequence[int], index: int = 0, count: int = 2) -> None:
    directory.mkdir(exist_ok=True)
    with (directory / "parts.jsonl").open("a") as file:
        for end in ends:
            file.write(json.dumps({"until": end, "index": index, "count": count, "groups": []}) + "\n")


def test_only_the_instance_that_holds_the_others_up_is_left_out(tmp_path: Path) -> None:
    """Of three, one is silent. The two others have written at the same time, one of them more: both stay."""
    directories = [tmp_path / str(index) for index in range(3)]
    for index, directory in enumerate(directories):
        write_parts(directory, [5], index=index, count=3)
    follower = Follower(directories, tmp_path / "decisions.jsonl")
    follower.go_on()
    write_parts(directories[0], [10], index=0, count=3)
    write_parts(directories[1], [10, 15], index=1, count=3)
    follower.go_on()
    follower.now += WITHIN_S
    follower.go_on()
    assert follower.members.left_out == [str(directories[2])]
    follower.go_on()
    assert follower.members.reached == 10


def test_a_silent_instance_is_left_out_and_comes_back(tmp_path: Path) -> None:
    """It is waited for until it was silent for long enough, and again once it has caught up. Decisions are kept."""
    one, two = tmp_path / "1", tmp_path / "2"
    write_parts(one, [5, 10, 15])
    write_parts(two, [5], index=1)
    follower = Follower([one, two], tmp_path / "decisions.jsonl")
    follower.go_on()
    assert follower.members.reached == 5
    follower.now += WITHIN_S - 1
    follower.go_on()
    assert follower.members.reached == 5
    follower.now += 1
    follower.go_on()
    follower.go_on()
    assert follower.members.reached == 15
    assert follower.members.left_out == [str(two)]
    write_parts(one, range(20, 105, 5))
    write_parts(two, range(10, 65, 5), index=1)  # it is back, and far behind
    follower.go_on()
    assert (follower.members.reached, follower.members.left_out) == (100, [str(two)])
    write_parts(two, range(65, 75, 5), index=1)  # 30 s behind
    follower.go_on()
    follower.go_on()
    assert follower.members.left_out == []
    write_parts(one, [105])
    follower.go_on()
    assert follower.members.reached == 100
    write_parts(two, range(75, 110, 5), index=1)
    follower.go_on()
    assert follower.members.reached == 105
    kept = Decisions(tmp_path / "decisions.jsonl").all()
    assert kept == [Decision(5, str(two), False), Decision(100, str(two), True)]
    again = Follower([one, two], tmp_path / "decisions.jsonl")  # which has no time to wait
    again.go_on()
    assert (again.members.reached, again.members.left_out, again.members.followed) == (105, [], 2)


def test_an_instance_that_never_came_is_left_out(tmp_path: Path) -> None:
    """Nothing is known of it, not even a directory; a decision that a crash has torn was not followed."""
    one, two = tmp_path / "1", tmp_path / "2"
    write_parts(one, [5, 10])
    (tmp_path / "decisions.jsonl").write_bytes(b'{"end":null,"dir')
    follower = Follower([one, two], tmp_path / "decisions.jsonl")
    follower.go_on()
    follower.now += WITHIN_S
    follower.go_on()
    follower.go_on()
    assert follower.members.reached == 10
    assert Decisions(tmp_path / "decisions.jsonl").all() == [Decision(-math.inf, str(two), False)]


def ends(lines: Sequence[bytes]) -> list[float]:
    return [json.loads(line)["until"] for line in lines]


def test_parts_of_all_days_are_read(tmp_path: Path) -> None:
    """Files are renamed at the end of a day while they are read; a line that is being written waits."""
    parts = PartsFile(tmp_path)
    assert parts.after(-math.inf) == []
    write_parts(tmp_path, [5, 10])
    assert ends(parts.after(-math.inf)) == [5, 10]
    write_parts(tmp_path, [15])
    (tmp_path / "parts.jsonl").rename(tmp_path / "parts-2026-11-28.jsonl")
    write_parts(tmp_path, [20])
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"until":25,')
    assert ends(parts.after(10)) == [15]
    assert ends(parts.after(15)) == [20]
    assert parts.after(20) == []
    assert ends(PartsFile(tmp_path).after(12)) == [15]
    assert ends(PartsFile(tmp_path).after(15)) == [20]
    served = ServedParts(tmp_path)
    for _ in range(2):  # who asks once more gets the same
        asked: list[float] = [-math.inf]
        while lines := served.after(asked[-1]).splitlines():
            asked += ends(lines)
        assert asked[1:] == [5, 10, 15, 20]
    (tmp_path / "parts.jsonl").write_text("no part\n" * 9)
    with pytest.raises(StateError, match="is not a file of parts"):
        parts.after(20)


def test_two_who_ask_for_the_same_parts_are_both_remembered(tmp_path: Path) -> None:
    """Each goes on where it was; the beginning, which is not read again, may be damaged meanwhile."""
    write_parts(tmp_path, [5, 10])
    served = ServedParts(tmp_path)
    for _ in range(2):
        assert ends(served.after(-math.inf).splitlines()) == [5, 10]
    write_parts(tmp_path, [15])
    text = (tmp_path / "parts.jsonl").read_text()
    (tmp_path / "parts.jsonl").write_text(text.replace('"until": 5', '"ended": 5'))
    for _ in range(2):
        assert ends(served.after(10).splitlines()) == [15]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    """A configuration without groups, the directory of a run, a wrong address, and no configuration."""
    with pytest.raises(UsageError, match=r"\[groups\] by"):
        follow(
            [str(tmp_path)], tmp_path / "out", parse_settings({}, "", {}), {}, Shutdown(), leave_out_after_s=WITHIN_S
        )
    (tmp_path / "run/journal").mkdir(parents=True)
    with pytest.raises(UsageError, match="state directory of a run"):
        follow([str(tmp_path / "1")], tmp_path / "run", SETTINGS, {}, Shutdown(), leave_out_after_s=WITHIN_S)
    with pytest.raises(UsageError, match="named twice"):
        follow(["one", "one"], tmp_path / "out", SETTINGS, {}, Shutdown(), leave_out_after_s=WITHIN_S)
    (tmp_path / "parts.jsonl").write_text("no part\n")
    config = configuration(tmp_path / "instance.toml", {"groups": {"by": ["queue"]}})
    done = voicewatch("merge", tmp_path, "--out", tmp_path / "out", "--config", config, "--follow")
    assert done.returncode == 1
    assert "panicked" not in done.stderr
    assert "is not a file of parts" in done.stderr.splitlines()[-1]
    with pytest.raises(UsageError, match=r"^host: an address has no user or password"):
        follow(["http://u:hidden@host"], tmp_path / "out", SETTINGS, {}, Shutdown(), leave_out_after_s=WITHIN_S)
    with pytest.raises(UsageError, match="http://host:port: is not an address"):
        follow(["http://host:port"], tmp_path / "out", SETTINGS, {}, Shutdown(), leave_out_after_s=WITHIN_S)
    done = voicewatch("merge", tmp_path, "--out", tmp_path / "out", "--follow")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--config" in done.stderr


def test_outputs_go_on_after_a_stop(tmp_path: Path) -> None:
    """Two runs over growing files leave the files of one."""
    lines = recorded(1)
    whole = results(tmp_path / "whole", lines, Share(0, 1))
    sources = [results(tmp_path / f"{index}", lines, Share(index, 2)) for index in range(2)]
    text = (sources[0] / "parts.jsonl").read_bytes()
    upto = min(json.loads(lines_of(source / "parts.jsonl")[-1])["until"] for source in sources)
    expected = judged_by_one(whole, upto)
    for size in (text.rfind(b"\n", 0, len(text) // 2) + 1, len(text)):
        (sources[0] / "parts.jsonl").write_bytes(text[:size])
        run_until_idle(sources, tmp_path / "out")
    groups = (tmp_path / "out/groups.jsonl").read_text().splitlines()
    assert [json.dumps(json.loads(line)) for line in groups] == expected[0]
    assert (tmp_path / "out/alerts.jsonl").read_text().splitlines() == expected[1]


def run_until_idle(sources: Sequence[Path], out: Path) -> None:
    """Follow until nothing more comes."""
    shutdown = Shutdown()

    def stop() -> None:
        size = -1
        while not (out / "groups.jsonl").exists() or (out / "groups.jsonl").stat().st_size != size:
            size = (out / "groups.jsonl").stat().st_size if (out / "groups.jsonl").exists() else -1
            time.sleep(0.7)
        shutdown.requested.set()

    thread = threading.Thread(target=stop)
    thread.start()
    follow(list(map(str, sources)), out, SETTINGS, {}, shutdown, leave_out_after_s=WITHIN_S)
    thread.join()
