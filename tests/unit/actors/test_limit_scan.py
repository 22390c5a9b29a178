"""The scan over a batch equals the rule followed one reading after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.limit_scan import Watch, live, paging
from domain.instants import NEVER_US


@dataclass
class Follower:
    """One rule of one channel, as the contract says it in words."""

    delay_us: int
    onset_us: int = NEVER_US
    is_raised: bool = False
    is_unpaged: bool = False

    def see(self, time_us: int, beyond: bool, back: bool, new_patient: bool, may_page: bool) -> list[tuple[str, int]]:
        said = self._see(time_us, beyond, back, new_patient)
        self.is_unpaged = self.is_raised and (self.is_unpaged or ("started", self.onset_us) in said)
        if self.is_unpaged and may_page and beyond:
            self.is_unpaged = False
            if ("started", self.onset_us) not in said:
                said.append(("continued", self.onset_us))
        return said

    def _see(self, time_us: int, beyond: bool, back: bool, new_patient: bool) -> list[tuple[str, int]]:
        said = []
        if new_patient:
            if self.is_raised:
                said.append(("left", self.onset_us))
            self.onset_us, self.is_raised = NEVER_US, False
        if self.is_raised:
            if back:
                said.append(("ended", self.onset_us))
                self.onset_us, self.is_raised = NEVER_US, False
        elif not beyond:
            self.onset_us = NEVER_US
        else:
            self.onset_us = time_us if self.onset_us == NEVER_US else self.onset_us
            if time_us - self.onset_us >= self.delay_us:
                self.is_raised = True
                said.append(("started", self.onset_us))
        return said


# inside, between limit and hysteresis, or beyond; time since the reading before; a new patient now and then; in time or not
READING = st.tuples(
    st.sampled_from(["inside", "between", "beyond", "beyond"]), st.integers(0, 4), st.integers(0, 9).map(lambda n: n == 0),
    st.booleans(),
)  # fmt: skip


@settings(max_examples=300)
@given(
    channels=st.lists(
        st.tuples(st.integers(0, 6), st.lists(READING, min_size=1, max_size=14), st.integers(0, 3)), min_size=1, max_size=4
    )
)
def test_the_scan_equals_one_reading_after_the_other(
    channels: list[tuple[int, list[tuple[str, int, bool, bool]], int]],
) -> None:
    rows, expected, finals, unpaged, may_page = [], [], [], [], []
    for delay, stream, begun in channels:
        # begun: nothing, pending since 3 before, raised, or raised and nobody paged
        follower = Follower(delay, [NEVER_US, 97, 97, 97][begun], begun >= 2, begun == 3)
        before, time_us = (follower.onset_us, follower.is_raised), 100
        for number, (where, gap, new_patient, in_time) in enumerate(stream):
            time_us += gap
            said = follower.see(time_us, where == "beyond", where == "inside", new_patient, in_time)
            unpaged.append(begun == 3)
            may_page.append(in_time)
            rows.append((number == 0, new_patient, time_us, where == "beyond", where == "inside", delay, *before))
            expected.append(said)
        finals.append((len(rows) - 1, follower))
    watch = _watch(rows)
    life = live(watch)
    pages = paging(watch, life, np.array(may_page), np.array(unpaged)[:, None])
    found = [
        [(name, int(onset[row, 0])) for name, flags, onset in (
            ("left", life.left, life.left_onset_us), ("ended", life.ended, life.onset_us),
            ("started", life.started, life.onset_us), ("continued", pages.due, life.onset_us)) if flags[row, 0]]
        for row in range(len(rows))
    ]  # fmt: skip
    assert found == expected
    for row, follower in finals:
        assert bool(life.raised[row, 0]) == follower.is_raised
        assert bool(pages.is_unpaged[row, 0]) == follower.is_unpaged
        onset_us = life.onset_us[row, 0] if follower.is_raised else life.pending_us[row, 0]
        assert onset_us == follower.onset_us


def _watch(rows: list[tuple[bool, bool, int, bool, bool, int, int, bool]]) -> Watch:
    first, new_patient, time_us, beyond, back, delay_us, onset_us, raised = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    wide = [column[:, None] for column in (beyond, back, delay_us, onset_us, raised)]
    return Watch(first, new_patient, time_us, *wide)
