"""The life of limit rules over a batch, all channels and rules at once.

A rule fires at the first reading beyond its limit that comes at least the delay after the first one of an unbroken run
beyond; it stays raised until a reading is back inside by the hysteresis. Within a channel that is a sequential rule;
here it is computed by running maxima over rows sorted by channel ("which was the last row that …"), so that the work
does not grow with how often one channel appears, and the result is that of one row after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.instants import NEVER_US


@dataclass(frozen=True, slots=True)
class Watch:
    """Rows sorted by channel, in order of time within; [n] or [n, rules].

    first: first row of its channel; is_new_patient: the patient differs from the channel's row before, and all that was
    pending or raised ends here; beyond, back: strictly beyond the limit, back inside by the hysteresis; onset_us,
    is_raised: the channel's state before the batch (on all of its rows); delay_us: per row and rule.
    """

    first: NDArray[np.bool_]
    is_new_patient: NDArray[np.bool_]
    time_us: NDArray[np.int64]
    beyond: NDArray[np.bool_]
    back: NDArray[np.bool_]
    delay_us: NDArray[np.int64]
    onset_us: NDArray[np.int64]
    is_raised: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Life:
    """[n, rules]. started, ended: a rule was raised or ended by this row; left: it was raised when this row brought
    another patient. onset_us: of the alarm that is or was raised; left_onset_us: of the one that was left.
    start_row: the row that raised what is raised, -1 where that was before the batch. raised, pending_us: state after
    the row (pending: start of the run beyond, where nothing is raised yet).
    """

    started: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    left: NDArray[np.bool_]
    onset_us: NDArray[np.int64]
    left_onset_us: NDArray[np.int64]
    start_row: NDArray[np.intp]
    raised: NDArray[np.bool_]
    pending_us: NDArray[np.int64]


def live(watch: Watch) -> Life:
    """Follow every rule of every channel through the rows."""
    fresh = (watch.first | watch.is_new_patient)[:, None]
    carries = (watch.first & ~watch.is_new_patient)[_last(fresh)[:, 0]][:, None]  # rows still of the patient before
    raised_0 = watch.is_raised & carries
    onset_0 = np.where(carries, watch.onset_us, NEVER_US)
    pending_0 = (onset_0 != NEVER_US) & ~raised_0
    run_starts = watch.beyond & ~_before(watch.beyond, fresh, pending_0)
    run = _onset(run_starts, fresh, watch.time_us, onset_0)
    fires = watch.beyond & (watch.time_us[:, None] - np.where(watch.beyond, run, 0) >= watch.delay_us)
    last = _last(fires | watch.back | fresh)
    raised = np.where(_at(fires, last), True, np.where(_at(watch.back, last), False, raised_0))
    raised_before = _before(raised, fresh, raised_0)
    started, ended = fires & ~raised_before, watch.back & raised_before
    start = _last(started | fresh)
    onset = np.where(_at(started, start), _at(run, start), onset_0)
    changed = watch.is_new_patient[:, None]
    left = changed & np.where(watch.first[:, None], watch.is_raised, _shifted(raised))
    return Life(
        started, ended, left, onset,
        left_onset_us=np.where(watch.first[:, None], watch.onset_us, _shifted(onset)),
        start_row=np.where(_at(started, start), start, -1),
        raised=raised,
        pending_us=np.where(watch.beyond, run, NEVER_US),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Paging:
    """[n, rules]. due: what is raised was told of by readings that may not page, and this is the first that may, and still
    is beyond. is_unpaged: state after the row.
    """

    due: NDArray[np.bool_]
    is_unpaged: NDArray[np.bool_]


def paging(watch: Watch, life: Life, may_page: NDArray[np.bool_], was_unpaged: NDArray[np.bool_]) -> Paging:
    """Follow what could not page when it began. `may_page`: [n]; `was_unpaged`: state before, on all rows of a channel."""
    if may_page.all() and not was_unpaged.any():
        return Paging(np.zeros_like(life.raised), np.zeros_like(life.raised))
    began = np.where(life.start_row >= 0, life.start_row, np.flatnonzero(watch.first)[np.cumsum(watch.first) - 1][:, None])
    quietly = life.raised & np.where(life.start_row >= 0, ~may_page[began], was_unpaged)
    pages = quietly & watch.beyond & ~life.started & may_page[:, None]
    rows = np.arange(len(pages))[:, None]
    newest = np.maximum.accumulate(np.where(pages, rows, -1), axis=0)
    before = np.concatenate([np.full_like(newest[:1], -1), newest[:-1]])
    return Paging(pages & (before < began), quietly & (newest < began))


def _last(marked: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each row the last marked row up to it, by column (row 0 where there is none)."""
    rows = np.arange(len(marked))[:, None]
    last: NDArray[np.intp] = np.maximum.accumulate(np.where(marked, rows, 0), axis=0)
    return last


def _at(values: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    return np.take_along_axis(values, rows, axis=0)


def _shifted(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([values[:1], values[:-1]])


def _before(values: NDArray[Any], fresh: NDArray[np.bool_], initial: NDArray[Any]) -> NDArray[Any]:
    """Each row's value of the row before; `initial` where the row starts afresh."""
    return np.where(fresh, initial, _shifted(values))


def _onset(
    starts: NDArray[np.bool_], fresh: NDArray[np.bool_], time_us: NDArray[np.int64], initial: NDArray[np.int64]
) -> NDArray[np.int64]:
    """When the run that a row belongs to began: at the last start, or before the batch."""
    last = _last(starts | fresh)
    return np.where(_at(starts, last), time_us[last], initial)
