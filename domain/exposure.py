"""How open to attack devices are: a score from 0 to 100, each point of which is a finding with its remedy. Clause 8.4a.

A pure function of what is known of the devices, as columns. Points add up and end at 100. What is not known is a finding
too: nobody can say that such a device is safe. That a patient depends on a device makes none of it worse, but more urgent:
it adds points where there are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.instants import DAY_US
from domain.thing_models import Criticality

MOST: Final = 100
SILENT_DAYS: Final = 30  # after which a credential that nobody uses is a door that nobody watches
ENDS_DAYS: Final = 30  # so long before the end of a certificate somebody has to look
CHANGED_DAYS: Final = 30  # for so long a changed fingerprint is news
UNKNOWN: Final = -1  # in place of a time


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for a device's score. `says` and `remedy`: a sentence each, for people."""

    code: str
    points: int
    says: str
    remedy: str


FINDINGS: Final[tuple[Finding, ...]] = (
    Finding("plain-link", 25, "It came over a link without TLS: whoever is on the way reads and changes what it says.",
            "Turn TLS on in the device, or put it behind a gateway that speaks TLS."),
    Finding("fingerprint-changed", 25, "It came by another door, link, software or firmware than before, within 30 days.",
            "Find out who changed it; isolate it if nobody did."),
    Finding("firmware-outdated", 20, "Another device of its kind and maker has a newer firmware.", "Update its firmware."),
    Finding("default-configuration", 20, "It is set up as it came from its maker.",
            "Set passwords and services of its own, then take `configuration: default` from its attributes."),
    Finding("credential-old", 15, "Its credential is older than the platform allows.",
            "Rotate its token, or let it renew its certificate."),
    Finding("certificate-ends", 15, "Its certificate ends within 30 days: then no door lets it in by it.",
            "Let it renew its certificate, or give it a claim code for another."),
    Finding("never-seen", 15, "It has a credential and never came: the credential may lie anywhere.",
            "Connect it, or retire it."),
    Finding("shared-credential", 10, "It speaks through a gateway, with the gateway's credential: the gateway can speak as it.",
            "Give it a credential of its own where it can hold one; watch its gateway."),
    Finding("token-beside-certificate", 10, "It has a certificate, and its token alone still opens the door.",
            "Revoke its token, or note that it needs its certificate (`needs_certificate`)."),
    Finding("firmware-unknown", 10, "Nobody knows its firmware.", "Note `firmware` in its attributes."),
    Finding("silent", 10, "It did not come for 30 days, and its credential is still good.", "Find it, or retire it."),
    Finding("serial-unknown", 5, "Nobody knows its serial number: another one in its place would not be noticed.",
            "Note `serial` in its attributes."),
    Finding("credential-age-unknown", 5, "Nobody knows how old its credential is.", "Rotate it."),
    Finding("life-depends", 10, "It watches or keeps alive a patient: what else was found comes first here.",
            "Remedy its other findings before those of other devices."),
    Finding("therapy-depends", 5, "A therapy depends on it: what else was found is more urgent here.",
            "Remedy its other findings before those of lesser devices."),
)  # fmt: skip
BY_CODE: Final = {finding.code: finding for finding in FINDINGS}
_BIT: Final = {finding.code: np.uint32(1 << number) for number, finding in enumerate(FINDINGS)}
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of each device, aligned. Times are UTC microseconds, UNKNOWN where there is none.

    `has_credential`: of its own; `is_by_token_too`: it has a certificate, and needs none. `is_carried`: by a gateway.
    `issued_us`: when what it comes with was issued; `ends_us`: when its last good certificate ends.
    `seen_us`: when it last came to a door itself.
    """

    has_credential: Bools
    is_by_token_too: Bools
    is_carried: Bools
    issued_us: NDArray[np.int64]
    ends_us: NDArray[np.int64]
    seen_us: NDArray[np.int64]
    over_tls: Bools
    changed_us: NDArray[np.int64]
    has_firmware: Bools
    is_outdated: Bools
    has_serial: Bools
    is_default: Bools
    criticality: NDArray[np.int8]


def judge(facts: Facts, now_us: int, credential_days: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The score of each device, and its findings, a bit each in the order of FINDINGS."""
    own, seen, changed = facts.has_credential, facts.seen_us != UNKNOWN, facts.changed_us != UNKNOWN
    is_issued = facts.issued_us != UNKNOWN
    holds = {
        "plain-link": seen & ~facts.over_tls,
        "fingerprint-changed": changed & (now_us - facts.changed_us <= CHANGED_DAYS * DAY_US),
        "firmware-outdated": facts.is_outdated,
        "default-configuration": facts.is_default,
        "credential-old": own & is_issued & (now_us - facts.issued_us > credential_days * DAY_US),
        "certificate-ends": (facts.ends_us != UNKNOWN) & (facts.ends_us - now_us <= ENDS_DAYS * DAY_US),
        "never-seen": own & ~seen,
        "shared-credential": facts.is_carried & ~own,
        "token-beside-certificate": facts.is_by_token_too,
        "firmware-unknown": ~facts.has_firmware,
        "silent": own & seen & (now_us - facts.seen_us > SILENT_DAYS * DAY_US),
        "serial-unknown": ~facts.has_serial,
        "credential-age-unknown": own & ~is_issued,
    }
    others = np.logical_or.reduce(list(holds.values()))
    holds["life-depends"] = others & (facts.criticality == Criticality.VITAL)
    holds["therapy-depends"] = others & (facts.criticality == Criticality.THERAPY)
    points, bits = np.zeros(len(own), np.int64), np.zeros(len(own), np.uint32)
    for finding in FINDINGS:
        points += finding.points * holds[finding.code]
        bits |= np.where(holds[finding.code], _BIT[finding.code], np.uint32(0))
    return np.minimum(points, MOST).astype(np.uint8), bits


def bit_of(code: str) -> int:
    """The bit of a finding; raises KeyError."""
    return int(_BIT[code])


def findings_of(bits: int) -> list[Finding]:
    """The findings of one device in the order of FINDINGS: the heaviest first, then what depends on the device."""
    return [finding for number, finding in enumerate(FINDINGS) if bits >> number & 1]
