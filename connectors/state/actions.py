"""The actions of the audit log, all of them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Action"]


class Action(StrEnum):
    """What an audit entry records."""

    INTERCEPTOR_VALIDATION = "INTERCEPTOR_VALIDATION"
    """The load check before interceptors are created, with `active_load`."""
    INTERCEPTOR_CREATED = "INTERCEPTOR_CREATED"
    INTERCEPTOR_FAILED = "INTERCEPTOR_FAILED"
    FEED_UP = "FEED_UP"
    FEED_DOWN = "FEED_DOWN"
    TOPIC_REFUSED = "TOPIC_REFUSED"
    """Genesys did not subscribe a topic; the others are."""
    CONVERSATION_NOT_WATCHED = "CONVERSATION_NOT_WATCHED"
    """The first conversation that is not watched for this reason."""
    CLOCK_STEPPED = "CLOCK_STEPPED"
    """The wall clock differed from the journal's time by more than a second, which went on from it."""
    RAW_KEPT = "RAW_KEPT"
    """A run keeps notifications whole: `[privacy] keep_raw`."""
    WATCH_ENDED = "WATCH_ENDED"
    """A conversation had no frame for `[watch] forget_after_s` and is no longer watched; the outcome is `silent`."""
    ALERT_RAISED = "ALERT_RAISED"
    ALERT_RESOLVED = "ALERT_RESOLVED"
    CALLBACK_DELIVERED = "CALLBACK_DELIVERED"
    CALLBACK_FAILED = "CALLBACK_FAILED"
    """An attempt failed; the callback is tried again."""
    CALLBACK_DEAD = "CALLBACK_DEAD"
    """The callback is abandoned until it is sent again by hand."""
    CALLBACK_EXPIRED = "CALLBACK_EXPIRED"
    """A raised alert that waited too long is not sent: the resolve of the same incident says all of it."""
    OUTBOX_SALVAGED = "OUTBOX_SALVAGED"
    """The outbox was damaged or empty; what could be read of it was saved."""
    AUDIT_REPAIRED = "AUDIT_REPAIRED"
    """The end of the log was damaged by a crash and has been repaired."""
