"""A power cut loses nothing of a platform as it is, and something of one that leaves out an fsync."""

from __future__ import annotations

import pytest

from tests.faults.checker import Invariant
from tests.faults.power_cut import BROKEN, series
from tests.faults.small_disks import why_none

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(300),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]  # fmt: skip


@pytest.mark.clause("9.3")
async def test_what_was_acknowledged_before_a_power_cut_is_kept_and_its_receipts_hold(tmp_path):
    (cut,) = await series(tmp_path, 3, 1)
    assert cut.holds, str(cut)
    assert cut.verdict.ledger.acknowledged > 300
    assert cut.receipts > 10


@pytest.mark.parametrize("name", BROKEN)
async def test_the_checker_goes_red_where_an_fsync_is_left_out(tmp_path, name):
    (cut,) = await series(tmp_path, 1, 1, (name,))
    assert cut.verdict.count(Invariant.LOST), str(cut)
