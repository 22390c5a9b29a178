"""What each process may say and hear on the bus: one table, from which the server's permissions are made.

Whoever is not in the table may not connect, and what is not in it is refused: a door cannot be a host's heartbeat, the
API cannot be the supervisor. Each process hears answers to itself alone. Hosts are many: each has a row of its own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from domain import hospital_systems, subjects
from domain.subjects import ALARMS_STREAM, AUDIT_STREAM, READINGS_STREAM, REJECTS_STREAM

SUPERVISOR: Final = "supervisor"
API: Final = "api"
DOORS: Final = "doors"
AUDIT: Final = "audit"
QUERIES: Final = "queries"
BACKUP: Final = "backup"
OBSERVER: Final = "observer"  # commands and measurements on the platform's own machine

HOSTS: Final = "host.*"  # among those who are answered: every host

_HOST: Final = re.compile(r"host-[1-9][0-9]*")
_STREAMS: Final = (READINGS_STREAM, ALARMS_STREAM, REJECTS_STREAM, AUDIT_STREAM)
_BUSINESS: Final = (READINGS_STREAM, ALARMS_STREAM, REJECTS_STREAM)
_ANY_SHARD: Final = "shard.*"
_ANY_ACTOR: Final = "actor.>"
_ANSWERS_ABROAD: Final = "_R_.>"  # nats-server's own, for each question that came from another account


@dataclass(frozen=True, slots=True)
class BusRights:
    """Of one process. `says` into streams and to whoever listens, questions too; `answers` to whom, by process.

    `reads` a stream: how it stands, and single messages; `follows`: in order, as it grows; `keeps`: makes it and
    sets its limits; `empties`: deletes what nobody needs any more.
    """

    says: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    empties: tuple[str, ...] = ()


_TAKEN_IN: Final = (*subjects.READINGS_SUBJECTS, *subjects.REJECTS_SUBJECTS, subjects.STREAM_SILENT)  # by an Intake

BUS_RIGHTS: Final[Mapping[str, BusRights]] = {
    SUPERVISOR: BusRights(
        says=(subjects.LOST, subjects.STORAGE, subjects.SHARDS_HELD, subjects.NOBODY, subjects.STREAM_SILENT),
        hears=(
            subjects.DIRECTORIES, subjects.HOST_ORDERS, subjects.HOST_HEARTBEATS, subjects.STREAM_SILENT, subjects.BUS_ACCESS,
        ),
        answers=(HOSTS, API),
        reads=_STREAMS, keeps=_STREAMS, empties=_STREAMS,
    ),
    API: BusRights(
        says=(
            *_TAKEN_IN, *subjects.AUDIT_SUBJECTS, subjects.DIRECTORY_CHANGED, subjects.SESSIONS_CHANGED, subjects.HOST_ORDERS,
            subjects.LARGE_QUESTIONS, subjects.DOOR_STAMPS, _ANY_SHARD, _ANY_ACTOR,
            subjects.BUS_ACCESS, hospital_systems.HEARD, _ANSWERS_ABROAD,
        ),
        hears=(
            hospital_systems.ASKED,
            subjects.DIRECTORY_CHANGED, subjects.SESSIONS_CHANGED, subjects.STORAGE, subjects.HOST_HEARTBEATS,
            subjects.SHARDS_HELD, subjects.DOORS_COUNTED, subjects.LOG_STATE, subjects.SIGHTINGS, subjects.ENROLMENT,
        ),
        answers=(DOORS,), reads=_BUSINESS, follows=(READINGS_STREAM, ALARMS_STREAM),
    ),
    DOORS: BusRights(
        says=(*_TAKEN_IN, subjects.DOORS_COUNTED, subjects.SIGHTINGS, subjects.ENROLMENT, _ANY_SHARD),
        hears=(subjects.DIRECTORY_CHANGED, subjects.HOSTS_PROGRESS, subjects.STORAGE, subjects.DOOR_STAMPS), answers=(API,),
        reads=(READINGS_STREAM,),
    ),
    QUERIES: BusRights(says=(_ANY_SHARD,), hears=(subjects.LARGE_QUESTIONS,), answers=(API,), reads=(READINGS_STREAM,)),
    AUDIT: BusRights(
        says=(subjects.LOG_STATE, subjects.STREAM_SILENT), reads=(AUDIT_STREAM,), follows=(AUDIT_STREAM,),
        empties=(AUDIT_STREAM,),
    ),
    BACKUP: BusRights(reads=_STREAMS, follows=_STREAMS),
    OBSERVER: BusRights(
        says=(subjects.host_metrics("*"),), hears=(subjects.HOST_HEARTBEATS,), reads=_BUSINESS, follows=_BUSINESS,
    ),
}  # fmt: skip


def host_rights(name: str) -> BusRights:
    """Any host may hold any shard and speak for its actors; alive, and how far, it is in its own name only."""
    return BusRights(
        says=(
            subjects.READINGS_SUBJECTS[0], subjects.READINGS_SUBJECTS[1], *subjects.ALARMS_SUBJECTS,
            *subjects.REJECTS_SUBJECTS, subjects.STREAM_SILENT, subjects.DIRECTORIES, _ANY_ACTOR,
            subjects.host_heartbeat(name), subjects.host_progress(name),
        ),
        hears=(_ANY_SHARD, _ANY_ACTOR, subjects.host_metrics(name)),
        answers=(API, DOORS, QUERIES, OBSERVER, HOSTS),
        reads=(READINGS_STREAM,), follows=(READINGS_STREAM,),
    )  # fmt: skip


def mailroom(process: str) -> str:
    """The part of an inbox' subject that is one process' own. Raises ValueError for one that is not of the table."""
    if process in BUS_RIGHTS:
        return process
    return HOSTS.replace("*", _host(process))


def rights_of(process: str) -> BusRights:
    """Of a process by its name. Raises ValueError for one that is not of the table."""
    return BUS_RIGHTS[process] if process in BUS_RIGHTS else host_rights(_host(process))


def _host(process: str) -> str:
    if not _HOST.fullmatch(process):
        raise ValueError(f"process {process!r} has no row: expected one of {', '.join(BUS_RIGHTS)}, or host-<number>")
    return process
