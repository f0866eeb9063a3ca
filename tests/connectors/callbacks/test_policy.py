"""What an answer means, how long to wait, and when a breaker opens."""

from __future__ import annotations

import pytest

from connectors.callbacks.policy import (
    BodyRules,
    Breaker,
    Dead,
    Delivered,
    Outcome,
    Retry,
    classify,
    excerpt,
    retry_delay_s,
)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        *((Outcome(status=s), Delivered) for s in (200, 201, 202, 204, 299)),
        *((Outcome(status=s), Retry) for s in (300, 301, 302, 304, 307, 308)),
        *((Outcome(status=s), Dead) for s in (400, 401, 403, 404, 405, 410, 413, 422, 451)),
        *((Outcome(status=s), Retry) for s in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((Outcome(failure=f), Retry) for f in ("dns", "connect", "tls", "timeout", "protocol", "internal")),
        *((Outcome(failure=f), Dead) for f in ("address", "url")),
    ],
)
def test_every_outcome_has_a_verdict(outcome, kind):
    """The table of the contract: what is delivered, worth a retry, or dead."""
    assert isinstance(classify(outcome), kind)


def test_only_410_gives_a_receiver_up():
    """It says so in its reason; a 404 does not."""
    gone = classify(Outcome(status=410))
    assert isinstance(gone, Dead)
    assert gone.gone
    assert "given up" in gone.reason
    missing = classify(Outcome(status=404))
    assert isinstance(missing, Dead)
    assert not missing.gone


def test_waits_reach_past_a_day_and_respect_retry_after():
    """Eight attempts span 24 to 31 hours; the receiver's wish is a lower bound; the last wait repeats."""
    for u, low_h, high_h in ((0.0, 24.5, 24.6), (0.999999, 30.6, 30.8)):
        waits = [retry_delay_s(n, u, None) for n in range(1, 8)]
        assert low_h < sum(waits) / 3600 < high_h
        assert waits == sorted(waits)
    assert retry_delay_s(1, 0.0, None) == 1.0
    assert retry_delay_s(1, 0.0, 7.0) == 7.0
    assert retry_delay_s(3, 0.0, 0.0) == 180.0
    assert retry_delay_s(50, 0.0, None) == 86_400.0


def test_the_breaker_opens_probes_and_closes():
    """Five failures in a row open it, one probe at a time is let through, success closes it."""
    breaker = Breaker(base_s=4.0)
    for _ in range(5):
        assert breaker.admits(0.0, 7)
        breaker = breaker.after(alive=False, now=0.0, u=0.0)
    assert (breaker.admits(1.9, 0), breaker.admits(2.0, 1), breaker.admits(2.0, 0)) == (False, False, True)
    straggler = breaker.after(alive=False, now=1.0, u=0.0)
    assert straggler.open_until == breaker.open_until
    again = breaker.after(alive=False, now=2.0, u=0.0)
    assert again.open_until == 6.0
    assert again.after(alive=True, now=6.0, u=0.0) == Breaker(base_s=4.0)


TEAMS = (
    "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId "
    "tcid=0,server=EXAMPLE,cv=abc.0.."
)


@pytest.mark.parametrize(
    ("body", "rules", "kind"),
    [
        ("", BodyRules(), Delivered),
        ("1", BodyRules(), Delivered),
        ('{"status":"success","message":"Event processed"}', BodyRules(), Delivered),
        ("a text about <html> later on", BodyRules(), Delivered),
        (TEAMS, BodyRules(), Retry),
        ("<html><title>Sign in</title></html>", BodyRules(), Retry),
        ("\ufeff \r\n<!-- proxy --><!DOCTYPE html PUBLIC>\n<html>", BodyRules(), Retry),
        ('<?xml version="1.0"?>\n<html xmlns="x">', BodyRules(), Retry),
        (TEAMS, BodyRules(failure=()), Delivered),
        ("Error: quota", BodyRules(failure=("^error",)), Retry),
        ("ok", BodyRules(success=("^ok$", "^done$")), Delivered),
        ("queued", BodyRules(success=("^ok$",)), Retry),
    ],
)
def test_the_body_of_a_2xx_is_judged(body, rules, kind):
    """A text that says that delivery failed, or a page, is a failure worth another attempt."""
    assert isinstance(classify(Outcome(status=200, body=body), rules), kind)


def test_the_body_of_other_answers_is_not_judged():
    """A 400 stays dead, and a 503 worth a retry, whatever they say."""
    assert isinstance(classify(Outcome(status=400, body="ok"), BodyRules(success=("ok",))), Dead)
    assert isinstance(classify(Outcome(status=503, body="ok"), BodyRules()), Retry)


def test_an_excerpt_shows_no_secret_of_the_url():
    """Path, parts of the path, query and given secrets are masked, also decoded; control characters become spaces."""
    url = "https://user:pa55word@chat.example.com/hooks/T%2Fsecret/abcdef?sig=0123456789&x=1"
    body = "no hook at /hooks/T%2Fsecret/abcdef\n(T/secret, abcdef, sig 0123456789, pa55word, key-1234)\x1b[31m"
    text = excerpt(body, url, ("key-1234",))
    assert text == "no hook at *** (***, ***, sig ***, ***, ***) [31m"
    assert len(excerpt("x" * 5000, url)) == 200
