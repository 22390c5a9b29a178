"""Sign-ins that failed, one or a sum of them, as FHIR R4 AuditEvents. Clauses 6.1b, 7.2a.

In an event are where from, when, how and why, and the ids of accounts that there are. Never what was typed: people type
passwords where a name is asked for, and a name that nobody has here may be somebody's all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from domain.accesses import (
    DICOM,
    KINDS_OF_ENTITIES,
    OURS,
    RECORD,
    ROLES_OF_ENTITIES,
    Outcome,
    coding,
    encode_event,
    source_of,
)
from domain.instants import to_rfc3339

SIGN_IN_FAILED: Final = "sign-in.fail"
SEVERAL: Final = "several addresses"
USER_SYSTEM: Final = f"{OURS}user"  # before the id of a user
_SECURITY_USER: Final = "11"  # of object-role


class Means(StrEnum):
    """By what somebody tried to sign in."""

    PASSWORD = "password"  # noqa: S105 (a kind of proof)
    SERVICE = "client-credentials"
    REFRESH = "refresh-token"
    AGAIN = "password-again"  # who is signed in, and shows the password again to change something of the account


class Why(StrEnum):
    """Why it failed, where the answer does not say: that is the same for all of these."""

    UNKNOWN_ACCOUNT = "unknown-account"
    WRONG_PASSWORD = "wrong-password"  # noqa: S105 (a reason)
    WRONG_TOKEN = "wrong-token"  # noqa: S105 (a reason)
    LOCKED = "locked"
    DISABLED = "disabled"
    CHANGED = "changed-meanwhile"  # locked, disabled or given another password between the look and the session
    ABANDONED = "abandoned"  # whoever asked did not wait
    BROKEN = "broken"  # by a mistake of ours


# not the fault of who tried
_OF_PLATFORM: Final = frozenset({Why.BROKEN, "unavailable", "storage-full", "integrity-violation"})


class Failure(NamedTuple):
    """How one sign-in failed. `why`: of `Why`, or the code of the error that was the answer."""

    means: Means
    why: str


@dataclass(frozen=True, slots=True)
class FailedSignIns:
    """One sign-in that failed, or those of an address or an IPv6 /64 (None: of several) in a short time. `counts`: not none.

    `accounts`: how many were for each user, by id; of a sum those that came first, not all. Others were for nobody who is
    here, or nobody looked for whom.
    """

    id: str
    first_us: int
    last_us: int
    address: str | None
    counts: Mapping[Failure, int]
    accounts: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def outcome(self) -> Outcome:
        is_ours = any(failure.why in _OF_PLATFORM for failure in self.counts)
        return Outcome.FAILED if is_ours else Outcome.REFUSED


def failed_sign_ins_event(failed: FailedSignIns, site: str) -> bytes:
    """The AuditEvent, recorded by the platform of region `site`: JSON, always the same bytes."""
    address = failed.address or SEVERAL
    came_from = {"network": {"address": failed.address, "type": "2"}} if failed.address else {}
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": failed.id,
        "type": coding(DICOM, "110114"),  # user authentication
        "subtype": [coding(f"{OURS}sign-in", SIGN_IN_FAILED), coding(DICOM, "110122")],  # login
        "action": "E",
        "recorded": to_rfc3339(failed.last_us),
        "outcome": failed.outcome,
        "outcomeDesc": _in_words(failed),
        # who it was is not known: that is why they were not let in
        "agent": [{"type": {"coding": [coding(DICOM, "110153")]}, "who": {"display": address}, "requestor": True, **came_from}],
        "source": source_of(site),
        "entity": [_tried(failed), *(_account(user_id, count) for user_id, count in sorted(failed.accounts.items()))],
    }
    if failed.count > 1:
        event["period"] = {"start": to_rfc3339(failed.first_us), "end": to_rfc3339(failed.last_us)}
    return encode_event(event)


def _in_words(failed: FailedSignIns) -> str:
    if failed.count == 1:
        return next(iter(failed.counts)).why
    return ", ".join(f"{count} {failure.means} {failure.why}" for failure, count in sorted(failed.counts.items()))


def _tried(failed: FailedSignIns) -> dict[str, Any]:
    means = ", ".join(sorted({failure.means for failure in failed.counts}))
    return {
        "type": coding(KINDS_OF_ENTITIES, "2"),
        "role": coding(ROLES_OF_ENTITIES, RECORD),
        "description": f"by {means}" if failed.count == 1 else f"{failed.count} times by {means}",
        "detail": [{"type": "count", "valueString": f"{failed.count}"}],
    }


def _account(user_id: str, count: int) -> dict[str, Any]:
    return {
        "what": {"identifier": {"system": USER_SYSTEM, "value": user_id}},
        "type": coding(KINDS_OF_ENTITIES, "1"),
        "role": coding(ROLES_OF_ENTITIES, _SECURITY_USER),
        "detail": [{"type": "count", "valueString": f"{count}"}],
    }
