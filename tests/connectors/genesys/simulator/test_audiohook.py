"""The emulated Genesys that dials AudioHook servers."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from connectors.errors import UsageError
from connectors.genesys.feeds.audiohook.api_keys import SECRETS_VARIABLE
from connectors.genesys.feeds.audiohook.session import Session
from connectors.genesys.simulator.audiohook import call_until_stopped, calling, first_key, impair
from connectors.genesys.simulator.caller import Caller, CallPlan, Fault, plan_call
from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.faults import parse_faults
from flows.commands.demo import STAGES
from flows.commands.simulate import KINDS, Simulation, simulate
from tests.support.audiohook import KEY, QUICK, SECRET, listening


def transcript(seconds: float, *faults: Fault) -> list[str | bytes]:
    """All that a caller says to a session on a clock of tenths, until it has closed."""
    return said_by(replace(plan_call(7, 1, seconds=seconds), faults=faults))


def said_by(plan: CallPlan) -> list[str | bytes]:
    """All that the caller of a plan says."""
    caller, session = Caller(plan, 0.0), Session(plan.session_id, plan.organization_id, 0.0)
    said: list[str | bytes] = []
    for tenth in range(1000):
        caller.poll(tenth / 10)
        for _ in range(3):
            messages = caller.to_send()
            said += messages
            for message in messages:
                session.receive(message, tenth / 10)
            for text in session.to_send():
                caller.receive(text, tenth / 10)
        if caller.finished or caller.hung_up:
            return said
    raise AssertionError("the call does not end")


def kinds(said: list[str | bytes]) -> list[str]:
    return ["audio" if isinstance(message, bytes) else json.loads(message)["type"] for message in said]


def test_the_same_seed_makes_the_same_call() -> None:
    """Plans and all that is said depend on the arguments alone, and the conversations are those of the voice events."""
    assert plan_call(3, 2, 1) == plan_call(3, 2, 1) != plan_call(4, 2, 1)
    assert [plan_call(1, slot).conversation_id for slot in range(5)] == conversation_ids(1, 5)
    assert transcript(8.0) == transcript(8.0)


def test_a_caller_does_what_the_reference_client_does() -> None:
    """Open first, audio at once, two pings after a second and one 5 s later, discarded audio told, close last."""
    said = transcript(8.0)
    names = kinds(said)
    assert (names[0], names[1], names[-1]) == ("open", "audio", "close")
    assert names.count("ping") == 3
    assert names.count("discarded") == 6
    assert names.count("audio") == 74
    messages = [json.loads(message) for message in said if isinstance(message, str)]
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    pings = [message["parameters"] for message in messages if message["type"] == "ping"]
    assert pings[0] == {}
    assert all(re.fullmatch(r"PT0\.\d+S", ping["rtt"]) for ping in pings[1:])
    assert messages[-1]["position"] == "PT8S"


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        (Fault(2.1, "wrong-sequence"), ["ping", "close"]),
        (Fault(2.1, "oversized-text"), ["error", "close"]),
        (Fault(2.1, "binary-while-paused"), ["paused", "audio", "close"]),
        (Fault(2.1, "half-sample"), ["audio", "close"]),
        (Fault(2.1, "late-pong"), ["error", "close"]),
        (Fault(2.1, "abrupt-end"), ["audio"]),
    ],
)
def test_faults_strike_when_they_are_planned(fault: Fault, ending: list[str]) -> None:
    """A fault comes at its time, and what follows is the answer to our `disconnect`, or nothing."""
    names = kinds(transcript(8.0, fault))
    assert names[-len(ending) :] == ending
    assert 20 <= names.count("audio") <= 22


def test_an_unanswered_open_and_an_unanswered_ping_are_given_up() -> None:
    """A caller waits 5 s for `opened` and for a pong, then says 408 and closes; and 10 s for `closed`."""
    caller = Caller(plan_call(1, 5), 0.0)
    caller.to_send()
    caller.poll(4.9)
    assert caller.to_send() == []
    caller.poll(5.0)
    assert kinds(caller.to_send()) == ["error", "close"]
    caller.poll(15.0)
    assert caller.finished
    assert [code for code, _ in caller.errors] == [408, 408]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("key=c2VjcmV0", ("key", b"secret")),
        ("key=", ("key", None)),
        ("a2V5==c2VjcmV0", ("a2V5=", b"secret")),
        (f"key={b64encode(SECRET).decode()},other=", ("key", SECRET)),
    ],
)
def test_the_first_key_of_the_environment_is_used(entry: str, expected: tuple[str, bytes | None]) -> None:
    """The variable holds key=base64secret; an empty secret means no signature."""
    assert first_key({SECRETS_VARIABLE: entry}) == expected


@pytest.mark.parametrize("entry", ["", "nonsense", "key=not base64"])
def test_without_a_key_the_caller_says_what_to_set(entry: str) -> None:
    """A missing or unreadable key is bad usage, and the message repeats none of it."""
    with pytest.raises(UsageError, match=f"set {SECRETS_VARIABLE}") as raised:
        first_key({SECRETS_VARIABLE: entry})
    assert not entry or entry not in str(raised.value)


def test_bad_usage_is_told() -> None:
    """An unknown kind, a missing address and an invalid one are bad usage."""
    with pytest.raises(UsageError, match="--kind sip: is not one of voice-events"):
        simulate("sip", Simulation(), [], {})
    with pytest.raises(UsageError, match="give --url"):
        simulate("audiohook", Simulation(), [], {})
    with pytest.raises(UsageError, match="must be like ws://"):
        call_until_stopped("http://x", "k", None, seed=1, conversations=1)
    assert {"voice-events", "audiohook"} <= set(KINDS)
    assert {"voice-events", "audiohook"} <= set(STAGES)


def test_calls_are_kept_on_until_they_are_no_longer_wanted(tmp_path: Path) -> None:
    """`calling` keeps calls on from a thread, and closes them in order at the end."""
    with listening(tmp_path, QUICK) as listener:
        with calling(listener.url, KEY, SECRET, seed=2, conversations=3) as ids:
            listener.wait_for(lambda this: this.feed.counts.open == 3)
            assert ids == conversation_ids(2, 3)
        listener.wait_for(lambda this: this.feed.counts.open == 0)
        assert listener.feed.counts.reasons == {"closed: end": 3}


def test_the_command_dials_until_it_is_interrupted(tmp_path: Path) -> None:
    """`voicewatch simulate --kind audiohook` says what it calls, and ends with exit code 0 on SIGTERM."""
    with listening(tmp_path, QUICK) as listener:
        command = [sys.executable, "-c", "from flows.cli import main; main()", "simulate", "--kind", "audiohook"]
        command += ["--url", listener.url, "--conversations", "2", "--seed", "5"]
        environ = os.environ | {SECRETS_VARIABLE: f"{KEY}={b64encode(SECRET).decode()}"}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert told == {"url": listener.url, "conversations": conversation_ids(5, 2)}
            listener.wait_for(lambda this: this.feed.counts.open == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        listener.wait_for(lambda this: this.feed.counts.open == 0)


def levels(said: list[str | bytes]) -> list[tuple[float, float]]:
    """The level of each stereo frame's two channels in dBFS, decoded as ITU-T G.711 says."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << ((code & 0x70) >> 4)) - 132
    linear = np.where(code & 0x80, -magnitude, magnitude) / 32768
    frames = [np.frombuffer(one, np.uint8).reshape(-1, 2) for one in said if isinstance(one, bytes)]
    power = [np.mean(linear[frame] ** 2, axis=0) + 1e-12 for frame in frames]
    return [(10 * math.log10(external), 10 * math.log10(internal)) for external, internal in power]


def test_the_parties_speak_in_turns() -> None:
    """The speaker is above -30 dBFS, the listener sends comfort noise below -60, and they change every 2 s."""
    heard = levels(transcript(8.0))
    assert len(heard) >= 70
    assert all(max(pair) > -30 and -90 < min(pair) < -60 for pair in heard)
    speakers = [int(pair[1] > pair[0]) for pair in heard]
    assert speakers[0] == 0
    assert len(list(itertools.groupby(speakers))) == 4


def test_planned_sounds_replace_the_speech() -> None:
    """One-way audio is digital silence on the agent's channel; hold is music there and noise from the customer."""
    one_way = replace(plan_call(7, 3, seconds=8.0), late=(), discards=())
    heard = levels(said_by(one_way))
    assert all(internal < -100 for _, internal in heard[30:])
    assert max(external for external, _ in heard[30:]) > -30
    held = replace(plan_call(7, 4, seconds=10.0), late=(), discards=())
    assert all(external < -60 < -30 < internal for external, internal in levels(said_by(held))[42:88])


def test_faults_are_worked_into_a_plan() -> None:
    """Times count from the run's start, and what is over before a call begins leaves it as it is."""
    text = "".join(
        f'[[fault]]\non = "edge"\nname = "e"\ndo = "{do}"\nafter_s = 10\nfor_s = 5\nloss = 0.1\n'
        for do in ("latency", "loss", "one-way", "dead-air", "disconnect")
    )
    faults = parse_faults(text).of_calls()
    plan = replace(plan_call(1, 6, seconds=30.0), late=(), discards=())
    struck = impair(plan, faults, 4.0)
    assert struck.late == ((6.0, 11.0, 0.25),)
    assert (len(struck.discards), struck.discards[0]) == (5, (6.0, 6.1))
    assert struck.sounds[:2] == ((6.0, 11.0, "internal", "silence"), (6.0, 11.0, "external", "silence"))
    assert struck.faults == ((6.0, "abrupt-end"),)
    assert impair(plan, faults, 15.0) == plan
    assert impair(plan, faults, 12.0).late == ((0.0, 3.0, 0.25),)


def test_calls_name_their_queue_agent_and_edge() -> None:
    """`open` carries them in customConfig."""
    plan = replace(plan_call(1, 0, seconds=1.0), custom_config={"queue": "Support"})
    opening = json.loads(said_by(plan)[0])
    assert opening["parameters"]["customConfig"] == {"queue": "Support"}
