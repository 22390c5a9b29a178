"""What is known of senders' numbers, over restarts and kill -9: a file now and then, and the stream for what came since.

The file says up to where of the stream it knows all; at a start the frames behind that are read: for as long as doors may
wait for it, the rest beside doors that are open. So nothing waits for the file, and what the stream has acknowledged is known
again whatever happened in between. A file that is damaged is put aside: then all numbers are new, and the cells alone know
doubles.
"""

from __future__ import annotations

import asyncio
import io
import logging
import zipfile
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from domain import subjects
from domain.errors import IntegrityViolation, RejectedInput, Unavailable
from domain.frames import decode_frame
from runtime.bus import StreamState
from runtime.durable import write_secret
from runtime.follower import StreamMessage
from runtime.replay_gate import ReplayGate
from runtime.replays import Columns, Replays

logger = logging.getLogger(__name__)

_EVERY_S: Final = 5.0
_SHARE: Final = 50.0  # what was written in a second is not written again for so many
_AT_ONCE: Final = 64
_NOWHERE: Final = -1  # nothing was ever saved
_CATCH_UP_S: Final = 20.0
_AGAIN_S: Final = 1.0  # when the bus was away
_MOST_TRIES: Final = 3
_BY_SOURCE: Final = ("highest", "newest_us", "epoch_us", "before", "jumped_from", "slot")
_OF_GAPS: Final = ("low", "high", "gaps")


class Stream(Protocol):
    """The part of the bus that reads a stream message by message."""

    async def stream_state(self, stream: str) -> StreamState: ...
    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None: ...


def load(file: Path, monotonic_s: float) -> Replays:
    """As it was saved; knowing nothing, up to no place of the stream, when there is no file, or one that is damaged."""
    replays = Replays(monotonic_s)
    if not file.exists():
        replays.position = _NOWHERE
        return replays
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            _take(replays, {name: saved[name] for name in saved.files})
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        logger.error("what was known of senders' numbers is damaged, and is put aside: %s", error)
        file.replace(file.with_suffix(".damaged"))
        replays = Replays(monotonic_s)
        replays.position = _NOWHERE
    return replays


def _take(replays: Replays, saved: dict[str, NDArray[Any]]) -> None:
    sources = saved["source"]
    saved.setdefault("jumped_from", saved["before"])  # a file of before that was kept: as if nothing had jumped
    replays.reach(sources.astype(np.uint32))
    for name in _BY_SOURCE:
        getattr(replays, name)[sources] = saved[name]
    for name in _OF_GAPS:
        setattr(replays, name, np.ascontiguousarray(saved[name]))
    replays.used[0], replays.position = int(saved["used"]), int(saved["position"])


def known_now(replays: Replays) -> dict[str, NDArray[Any]]:
    """A copy of what is known, for a file."""
    sources = np.flatnonzero(replays.highest)
    known = {name: getattr(replays, name)[sources] for name in _BY_SOURCE}
    known |= {name: getattr(replays, name).copy() for name in _OF_GAPS}
    return known | {"source": sources, "position": np.array(replays.position), "used": np.array(replays.used[0])}


def save(file: Path, known: dict[str, NDArray[Any]]) -> None:
    """Raises OSError, with the file as it was."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **known)
    write_secret(file, content.getvalue())


async def catch_up(replays: Replays, stream: Stream, within_s: float = _CATCH_UP_S) -> tuple[int, range]:
    """Take what the stream has behind what is known, for about so long; how many frames, and what is left to `read_on`.

    Raises Unavailable.
    """
    state = await stream.stream_state(subjects.READINGS_STREAM)
    if replays.position == _NOWHERE:  # what came before is not looked for
        replays.position = state.last_sequence
    left = range(max(replays.position + 1, state.first_sequence), state.last_sequence + 1)
    frames, deadline_s = 0, asyncio.get_running_loop().time() + within_s
    while left:
        frames += await _read(replays, stream, left[:_AT_ONCE])
        left = left[_AT_ONCE:]
        if left and asyncio.get_running_loop().time() > deadline_s:  # nobody's readings may wait for it
            logger.error("senders' numbers are known up to %d only, the stream is at %d", left.start - 1, state.last_sequence)
            break
    replays.position = left.start - 1 if left else state.last_sequence
    return frames, left


async def read_on(replays: Replays, stream: Stream, left: range, gate: ReplayGate) -> None:
    """Take the rest of what the stream had at the start, while the doors of `gate` are open.

    Until then what of it is captured and sent again is new to them; and who is killed goes on from where this was. What cannot
    be read is passed over: else all that comes later would have to be read again at every start. A bus that is away is waited
    for, however long; the log says when it goes and when it is back. Raises nothing.
    """
    last, tries, is_away = left.stop - 1, 0, False
    while left:
        gate.known_to(left.start - 1, last)
        try:
            await _read(replays, stream, left[:_AT_ONCE], is_past=True)
        except Unavailable as error:
            if not is_away:
                logger.warning("senders' numbers behind %d wait: the stream is away: %s", left.start - 1, error)
            is_away = True
            await asyncio.sleep(_AGAIN_S)
            continue
        except Exception:  # whatever it was: nobody would see that this has ended
            logger.exception("senders' numbers behind %d cannot be read from the stream", left.start - 1)
            tries += 1
            if tries < _MOST_TRIES:
                await asyncio.sleep(_AGAIN_S)
                continue
            logger.error("senders' numbers of %d messages are passed over: replays of them are new", len(left[:_AT_ONCE]))
        if is_away:
            logger.info("the stream is back: senders' numbers are read on from %d", left.start)
        left, tries, is_away = left[_AT_ONCE:], 0, False
    gate.known_to(last, last)


async def _read(replays: Replays, stream: Stream, numbers: range, *, is_past: bool = False) -> int:
    """Returns how many frames there were. Raises Unavailable, and then has taken none; told again it changes nothing."""
    read = await asyncio.gather(*(stream.get_message(subjects.READINGS_STREAM, number) for number in numbers))
    frames = 0
    for message in read:
        frames += message is not None and _note(replays, message, is_past=is_past)
        await asyncio.sleep(0)  # doors may be open
    return frames


def _note(replays: Replays, message: StreamMessage, *, is_past: bool) -> bool:
    if not message.subject.startswith(f"{subjects.READING}."):
        return False
    try:
        frame = decode_frame(message.payload)
    except (RejectedInput, IntegrityViolation):
        return False  # its shard refuses it
    if len(frame.readings):
        if not is_past:
            replays.stream_shows(frame.header.arrival_us)
        replays.stored(Columns.of(frame.readings), frame.header.arrival_us, is_past=is_past)
    return True


async def keep(replays: Replays, file: Path) -> None:
    """Save for ever, now and then, what has changed."""
    loop = asyncio.get_running_loop()
    wait_s, saved = _EVERY_S, replays.position
    while True:
        await asyncio.sleep(wait_s)
        if replays.position == saved:
            continue
        began_s, saved = loop.time(), replays.position
        try:
            await asyncio.to_thread(save, file, known_now(replays))
        except OSError as error:  # a full disk: the stream has it all the same
            logger.warning("what is known of senders' numbers is not saved: %s", error)
        wait_s = max(_EVERY_S, _SHARE * (loop.time() - began_s))
