"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# An example has no limit of time of its own: a busy machine would fail it. pytest-timeout limits the whole test.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")
