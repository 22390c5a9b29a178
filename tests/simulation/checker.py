"""The checker: what must hold of every run's history, whatever befell the platform. One function a promise.

Each promise is a question to a `History`, answered by sentences about where it was broken; none when it held. The
`Reference` is what a platform without any fault makes of the same stream: one runner, from the beginning to the end.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import pyarrow as pa

from actors.hospital_state import State
from actors.shard import ShardCell
from actors.shard_runner import ShardRunner, TurnResult
from domain import subjects
from domain.alarms import AlarmEvent, Phase
from domain.frames import MAGIC, decode_frame
from domain.messages import Reject, decode_control
from domain.quality import Origin, origin_of
from domain.readings import ReadingBatch
from runtime.lake_schema import ROWS
from tests.simulation.platform import SHARD_HANDLES
from tests.simulation.story import History

Key = tuple[Any, ...]  # what makes a reading that reading
_KEY: Final = ("handle", "instance", "metric", "time_us", "value", "source", "sequence")
_MOST_NAMED: Final = 3


@dataclass(frozen=True)
class Reference:
    """What one runner that never stopped says of the stream of a shard, and the state it ends in."""

    result: TurnResult
    cell: ShardCell

    @classmethod
    def of(cls, history: History) -> dict[int, Reference]:
        """Of all shards together, message by message: what one gives away another takes up."""
        runners = {shard: ShardRunner(shard, 1, ShardCell(shard), applied=0, committed=0) for shard in history.cells}
        results, given = {shard: TurnResult() for shard in runners}, dict[int, State]()
        for message in history.logs[subjects.READINGS_STREAM]:
            _, _, owner = message.subject.partition(".")
            for shard in sorted(runners, key=lambda shard: str(shard) != owner):
                runner = runners[shard]
                if message.subject in runner.wanted() and message.sequence <= history.cells[shard][0]:
                    runner.receive(message)
                    _take(runner, results[shard], given)
        return {shard: cls(results[shard], runner.cell) for shard, runner in runners.items()}


def _take(runner: ShardRunner, result: TurnResult, given: dict[int, State]) -> None:
    while runner.inbox:
        runner.followed = runner.wanted()
        part = runner.turn(10**9)
        result.alarms += part.alarms
        result.rows += part.rows
        result.refusals += part.refusals
        given |= {number: state for number, _, state in part.given}
        if runner.awaited is not None:
            runner.arrivals[runner.awaited], runner.awaited = given[runner.awaited], None


class Evidence:
    """A history, and what several promises look at."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.references = Reference.of(history)

    @cached_property
    def stored(self) -> Counter[Key]:
        """How often each measured or entered reading is in the lake."""
        return Counter(keys_of(ReadingBatch.from_arrow(_measured(self.history.rows))))

    @cached_property
    def rejects(self) -> list[Reject]:
        log = self.history.logs[subjects.REJECTS_STREAM]
        return [msgspec.json.decode(message.payload, type=Reject) for message in log]

    @cached_property
    def rejected(self) -> Counter[tuple[str, Key]]:
        """How often each reading, or control message, is among what hosts refused, by reason."""
        return _refused((reject.reason, reject.payload) for reject in self.rejects if reject.door == "host")

    @cached_property
    def frames(self) -> dict[int, list[Key]]:
        """The readings of each frame in the stream, by its sequence."""
        log = self.history.logs[subjects.READINGS_STREAM]
        return {m.sequence: keys_of(decode_frame(m.payload).readings) for m in log if m.subject.startswith("reading.")}

    @cached_property
    def alarms(self) -> list[AlarmEvent]:
        """What was notified, in order of arrival."""
        return [msgspec.json.decode(m.payload, type=AlarmEvent) for m in self.history.logs[subjects.ALARMS_STREAM]]


def acknowledged_is_stored_or_rejected(seen: Evidence) -> Iterator[str]:
    """What was acknowledged is in the lake, or among the rejects with a reason."""
    rejected = {key for _, key in seen.rejected}
    for batch, _ in _all_kept(seen.history):
        for key in keys_of(batch):
            if key not in seen.stored and key not in rejected:
                yield f"{_words(key)} was acknowledged and is neither in the lake nor among the rejects"


def nothing_is_stored_twice(seen: Evidence) -> Iterator[str]:
    """No reading is in the lake twice, however often it was sent."""
    for key, count in seen.stored.items():
        if count > 1:
            yield f"{_words(key)} is in the lake {count} times"


def nothing_is_invented(seen: Evidence) -> Iterator[str]:
    """What is in the lake, somebody sent."""
    sent = {key for batch in seen.history.said.sent for key in keys_of(batch)}
    for key in seen.stored.keys() - sent:
        yield f"{_words(key)} is in the lake and was sent by nobody"


def receipts_name_the_frame(seen: Evidence) -> Iterator[str]:
    """A receipt names a message of the stream that holds what was acknowledged."""
    log = seen.history.logs[subjects.READINGS_STREAM]
    for batch, receipt in _all_kept(seen.history):
        frame = set(seen.frames.get(receipt.stream_sequence, []))
        hospitals = {key[0] // SHARD_HANDLES for key in keys_of(batch) if key in frame}
        missing = [key for key in keys_of(batch) if key[0] // SHARD_HANDLES in hospitals and key not in frame]
        if not hospitals or missing:
            yield f"the receipt {receipt} names a frame without {_words((missing or keys_of(batch))[0])}"
        elif log[receipt.stream_sequence - 1].subject != subjects.reading(receipt.shard):
            yield f"the receipt {receipt} names a message of {log[receipt.stream_sequence - 1].subject}"


def events_are_in_the_stream(seen: Evidence) -> Iterator[str]:
    """An acknowledged device event is in the stream where its receipt says."""
    log = seen.history.logs[subjects.READINGS_STREAM]
    for event, receipt in seen.history.said.events:
        there = log[receipt.stream_sequence - 1] if receipt.stream_sequence <= len(log) else None
        if there is None or there.subject != subjects.control(receipt.shard) or decode_control(there.payload) != event:
            yield f"{event} was acknowledged by {receipt}, and something else is there"


def refused_is_kept(seen: Evidence) -> Iterator[str]:
    """A refused message whose refusal was acknowledged is among the rejects."""
    kept = {reject.payload for reject in seen.rejects}
    for payload in seen.history.said.refused:
        if payload not in kept:
            yield f"the refused message {payload!r} is not among the rejects"


def rejects_are_those_of_a_run_without_faults(seen: Evidence) -> Iterator[str]:
    """Hosts refuse what one runner that never stopped refuses of the same stream, each reading as often and for the reason."""
    expected = _refused((one.reason, one.payload) for of in seen.references.values() for one in of.result.refusals)
    for reason, key in expected.keys() | seen.rejected.keys():
        found, wanted = seen.rejected[reason, key], expected[reason, key]
        if found != wanted:
            yield f"{_words(key)} is among the rejects {found} times as {reason}, without faults {wanted} times"


def a_key_is_one_request(seen: Evidence) -> Iterator[str]:
    """Requests of one idempotency key are answered alike, and are in the stream once."""
    count = Counter(key for frame in seen.frames.values() for key in frame)
    for name, answers in seen.history.said.keyed.items():
        if len({receipt for _, receipt in answers}) > 1:
            yield f"requests of {name} were answered by {[receipt for _, receipt in answers]}"
        for key in keys_of(answers[0][0]):
            if count[key] != 1:
                yield f"{_words(key)} of request {name} is in the stream {count[key]} times"


def an_event_id_says_one_thing(seen: Evidence) -> Iterator[str]:
    """Whoever tells of an alarm event under one id, and however often, says the same."""
    said: dict[str, bytes] = {}
    for subject, payload, message_id in seen.history.told:
        if subject.startswith("alarm.") and said.setdefault(message_id, payload) != payload:
            yield f"alarm event {message_id} was told as {said[message_id]!r} and as {payload!r}"


def an_alarm_starts_once(seen: Evidence) -> Iterator[str]:
    """No alarm id is raised twice."""
    starts = Counter(event.alarm_id for event in seen.alarms if event.phase is Phase.START)
    for alarm_id, count in starts.items():
        if count > 1:
            yield f"alarm {alarm_id} was raised {count} times"


def alarms_are_those_of_a_run_without_faults(seen: Evidence) -> Iterator[str]:
    """What was notified is what one runner that never stopped says of the same stream: no more, no less, nothing else."""
    expected = {event.event_id: event for reference in seen.references.values() for event in reference.result.alarms}
    found = {event.event_id: event for event in seen.alarms}
    for event_id in expected.keys() | found.keys():
        if expected.get(event_id) != found.get(event_id):
            yield f"notified: {found.get(event_id)}, without faults: {expected.get(event_id)}"


def the_lake_is_that_of_a_run_without_faults(seen: Evidence) -> Iterator[str]:
    """The lake's rows, marks, clocks and scores included, are those of one runner that never stopped."""
    tables = [table for reference in seen.references.values() for _, table in reference.result.rows]
    expected, found = _rows(pa.concat_tables([ROWS.empty_table(), *tables])), _rows(seen.history.rows)
    for row in expected - found:
        yield f"without faults the lake has {row}"
    for row in found - expected:
        yield f"without faults the lake has no {row}"


def state_is_that_of_a_run_without_faults(seen: Evidence) -> Iterator[str]:
    """The state of each cell, restored and replayed however often, is that of one that never stopped."""
    for shard, (_, tables) in seen.history.cells.items():
        expected = seen.references[shard].cell.snapshot()
        for name, table in expected.items():
            if tables[name].equals(table):
                continue
            for column in table.column_names:
                mine, other = (_comparable(one[column].to_pylist()) for one in (tables[name], table))
                if mine != other:
                    yield f"{name}.{column} of shard {shard} is {mine}, without faults {other}"


def a_shard_has_one_holder(seen: Evidence) -> Iterator[str]:
    """When all is quiet each shard is held by one host, which follows its stream once."""
    holders = seen.history.holders
    if [(shard, followers) for shard, _, followers in holders] != [(shard, 1) for shard in sorted(seen.history.cells)]:
        yield f"(shard, host, followers): {holders}"


def a_hospital_is_in_one_shard(seen: Evidence) -> Iterator[str]:
    """All that a hospital has is in the shard that the business database says, and nothing of it in another."""
    for shard, (_, tables) in seen.history.cells.items():
        there = {number for number, place in enumerate(seen.history.places) if place == shard}
        found = {handle // SHARD_HANDLES - 1 for handle in tables["devices"]["handle"].to_pylist()}
        if found != there:
            yield f"shard {shard} has devices of hospitals {sorted(found)}, and should have those of {sorted(there)}"


PROMISES: Final[tuple[Callable[[Evidence], Iterator[str]], ...]] = (
    acknowledged_is_stored_or_rejected, nothing_is_stored_twice, nothing_is_invented, receipts_name_the_frame,
    events_are_in_the_stream, refused_is_kept, rejects_are_those_of_a_run_without_faults, a_key_is_one_request,
    an_event_id_says_one_thing, an_alarm_starts_once, alarms_are_those_of_a_run_without_faults,
    the_lake_is_that_of_a_run_without_faults, state_is_that_of_a_run_without_faults, a_shard_has_one_holder,
    a_hospital_is_in_one_shard,
)  # fmt: skip


def broken(history: History) -> Mapping[str, list[str]]:
    """The promises that were broken, and some of the places where; empty when all were kept."""
    seen, found = Evidence(history), defaultdict[str, list[str]](list)
    for promise in PROMISES:
        for number, sentence in enumerate(promise(seen)):
            if number < _MOST_NAMED:
                found[promise.__name__].append(sentence)
    return dict(found)


def keys_of(batch: ReadingBatch) -> list[Key]:
    columns = [_comparable(getattr(batch, name).tolist()) for name in _KEY]
    return list(zip(*columns, strict=True))


def _refused(refusals: Iterable[tuple[str, bytes]]) -> Counter[tuple[str, Key]]:
    return Counter((reason, key) for reason, payload in refusals for key in _keys_in(payload))


def _keys_in(payload: bytes) -> list[Key]:
    return keys_of(decode_frame(payload).readings) if payload.startswith(MAGIC) else [(payload,)]


def _all_kept(history: History) -> list[tuple[ReadingBatch, Any]]:
    return [*history.said.kept, *(answer for answers in history.said.keyed.values() for answer in answers)]


def _measured(rows: pa.Table) -> pa.Table:
    return rows.filter(pa.array(origin_of(rows["quality"].to_numpy()) != Origin.DERIVED))


def _rows(table: pa.Table) -> Counter[Key]:
    return Counter(zip(*(_comparable(table[name].to_pylist()) for name in ROWS.names), strict=True))


def _comparable(values: list[Any]) -> list[Any]:
    return ["NaN" if isinstance(value, float) and math.isnan(value) else _nested(value) for value in values]


def _nested(value: Any) -> Any:
    return _comparable(value) if isinstance(value, list) else value


def _words(key: Key) -> str:
    return "reading " + " ".join(f"{name}={value}" for name, value in zip(_KEY, key, strict=False))
