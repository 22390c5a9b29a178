"""The score of a device is the sum of its findings' points, each of which has a remedy. Clause 8.4a."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domain.exposure import BY_CODE, FINDINGS, MOST, UNKNOWN, Facts, bit_of, findings_of, judge
from domain.instants import DAY_US
from domain.thing_models import Criticality

pytestmark = pytest.mark.clause("8.4a")
NOW_US = 1_790_000_000_000_000


def one(value: object, dtype: type) -> np.ndarray:
    return np.array([value], dtype=dtype)


WELL = Facts(
    has_credential=one(True, bool), is_by_token_too=one(False, bool), is_carried=one(False, bool),
    issued_us=one(NOW_US - DAY_US, np.int64), ends_us=one(UNKNOWN, np.int64),
    seen_us=one(NOW_US, np.int64), over_tls=one(True, bool), changed_us=one(UNKNOWN, np.int64), has_firmware=one(True, bool),
    is_outdated=one(False, bool), has_serial=one(True, bool), is_default=one(False, bool),
    criticality=one(Criticality.FACILITY, np.int8),
)  # fmt: skip


def judged(**facts: object) -> tuple[int, list[str]]:
    changed = {name: one(value, getattr(WELL, name).dtype) for name, value in facts.items()}
    score, bits = judge(replace(WELL, **changed), NOW_US, credential_days=365)
    return int(score[0]), [finding.code for finding in findings_of(int(bits[0]))]


def test_of_a_device_that_is_well_nothing_is_found_even_if_a_life_depends_on_it() -> None:
    assert judged() == (0, [])
    assert judged(criticality=Criticality.VITAL) == (0, [])


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"over_tls": False}, ["plain-link"]),
        ({"changed_us": NOW_US - 29 * DAY_US}, ["fingerprint-changed"]),
        ({"changed_us": NOW_US - 31 * DAY_US}, []),
        ({"is_outdated": True}, ["firmware-outdated"]),
        ({"is_default": True}, ["default-configuration"]),
        ({"issued_us": NOW_US - 366 * DAY_US}, ["credential-old"]),
        ({"issued_us": NOW_US - 364 * DAY_US}, []),
        ({"issued_us": UNKNOWN}, ["credential-age-unknown"]),
        ({"ends_us": NOW_US + 29 * DAY_US}, ["certificate-ends"]),
        ({"ends_us": NOW_US + 31 * DAY_US}, []),
        ({"seen_us": UNKNOWN, "over_tls": False}, ["never-seen"]),
        ({"seen_us": NOW_US - 31 * DAY_US}, ["silent"]),
        ({"has_credential": False, "is_carried": True, "seen_us": UNKNOWN, "issued_us": UNKNOWN}, ["shared-credential"]),
        ({"is_by_token_too": True}, ["token-beside-certificate"]),
        ({"has_firmware": False}, ["firmware-unknown"]),
        ({"has_serial": False}, ["serial-unknown"]),
        ({"has_serial": False, "criticality": Criticality.VITAL}, ["serial-unknown", "life-depends"]),
        ({"has_serial": False, "criticality": Criticality.THERAPY}, ["serial-unknown", "therapy-depends"]),
    ],
)  # fmt: skip
def test_each_fact_is_the_finding_that_it_ought_to_be(facts: dict[str, object], found: list[str]) -> None:
    assert judged(**facts) == (sum(BY_CODE[code].points for code in found), found)


def test_a_score_ends_at_a_hundred_and_each_finding_says_what_to_do() -> None:
    score, found = judged(
        over_tls=False, changed_us=NOW_US, is_outdated=True, is_default=True, issued_us=0, has_serial=False,
        criticality=Criticality.VITAL,
    )  # fmt: skip
    assert score == MOST < sum(BY_CODE[code].points for code in found)
    assert all(finding.says and finding.remedy for finding in FINDINGS)
    assert len({bit_of(finding.code) for finding in FINDINGS}) == len(FINDINGS)
