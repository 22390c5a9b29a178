"""Who goes first when processors are few: what answers people and devices, then everything else.

Linux shares a processor among sessions first and then among the processes of one session, so each function speaks for
both. A system that does not grant it goes on without: precedence is a matter of pace, never of being right.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

_AHEAD: Final = -10
_BEHIND: Final = 19
_SWITCH_S: Final = 0.0005
_SESSION: Final = Path("/proc/self/autogroup")


def go_ahead() -> None:
    """Ask for precedence for this process and its session, which it should have to itself."""
    _renice(_AHEAD)


def stay_behind() -> None:
    """Take only what nobody else wants: for work that may be late."""
    _renice(_BEHIND)


def thread_stays_behind() -> None:
    """This thread's work, in a process that answers people, gives way to all of theirs."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _BEHIND)  # to Linux that is the thread


def share_finely() -> None:
    """Let a thread that waits for Python have it within half a millisecond, not five.

    For processes whose event loop answers while threads beside it work: it waits at each return from a question.
    """
    sys.setswitchinterval(_SWITCH_S)


def _renice(niceness: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) == os.getpid():  # a session of others, a terminal's for example, is not ours to change
        with contextlib.suppress(OSError):
            _SESSION.write_text(str(niceness))
