"""What the doors count, as they last told it, for Prometheus."""

from __future__ import annotations

from functools import partial
from typing import Final

from api.telemetry import Sample, Telemetry, single
from api.told import Told
from domain import subjects
from domain.door_counts import DoorsReport
from domain.ports import Clock

_GAUGES: Final = {"connections", "held_readings", "waiting_readings"}
# name, meaning, field of `DoorCounts`, and the label of those that are counted by a word
_OF_DOORS: Final = (
    ("connections", "Connections that are open; HTTP keeps none.", "connections"),
    ("connections_accepted", "Connections that were taken.", "connections_accepted"),
    ("connections_refused", "Connections, or HTTP requests, that were not let in.", "connections_refused", "why"),
    ("connections_ended", "Connections that ended.", "connections_ended", "why"),
    ("messages", "Messages that came.", "messages"),
    ("readings", "Readings that were acknowledged.", "readings"),
    ("received_bytes", "Bytes that came.", "bytes_received"),
    ("rejects", "Messages that were refused.", "rejects", "reason"),
    ("unavailable", "Messages that could not be stored, and whose senders were told so.", "unavailable"),
    ("held", "Times a sender sent more than it may and had to wait: over MQTT unread, over HTTP refused (429).", "held"),
)
_OF_INTAKE: Final = (  # field of `IntakeCounts`, meaning
    ("held_readings", "Readings on their way into the stream."),
    ("waiting_readings", "Readings that wait for room, unacknowledged."),
    ("waited", "Submissions that found no room at first."),
    ("repeated", "Messages that were stored before, and were answered as then."),
    ("submissions", "Submissions that were stored."),
    ("readings", "Readings that were stored."),
    ("frames", "Frames that the stream acknowledged."),
    ("retries", "Publications that the stream did not acknowledge, and that were tried again."),
    ("unavailable", "What was given up, or refused for want of disk."),
    ("rejects", "Refused messages that were kept."),
)


class Doors(Told[DoorsReport]):
    """The newest report of the doors' process."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, subjects.DOORS_COUNTED, DoorsReport)


def watch_doors(doors: Doors, telemetry: Telemetry) -> None:
    """Let Prometheus see what the doors count. While they say nothing there are no samples."""
    for name, text, field, *label in _OF_DOORS:
        add = telemetry.watch if field in _GAUGES else telemetry.watch_total
        add(f"vitalgrid_door_{name}", text, ("door", *label), partial(_of_doors, doors, field))
    for field, text in _OF_INTAKE:
        add = telemetry.watch if field in _GAUGES else telemetry.watch_total
        add(f"vitalgrid_intake_{field}", text, (), partial(_of_intake, doors, field))


def _of_doors(doors: Doors, field: str) -> list[Sample]:
    report = doors.newest()
    samples: list[Sample] = []
    for door, counts in report.doors.items() if report else ():
        counted = getattr(counts, field)
        by_word = counted if isinstance(counted, dict) else None
        samples += [((door, word), n) for word, n in sorted(by_word.items())] if by_word is not None else [((door,), counted)]
    return samples


def _of_intake(doors: Doors, field: str) -> list[Sample]:
    report = doors.newest()
    return single(getattr(report.intake, field)) if report else []
