"""Of unit tests: hypothesis judges behaviour, not the speed of a busy machine; pytest's time-out catches what hangs."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("busy-machine", deadline=None)
settings.load_profile("busy-machine")
