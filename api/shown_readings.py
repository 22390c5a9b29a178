"""Which rows of a table of readings the caller may be shown: by whose they were when they were taken.

A device that is on one patient after the other, or on nobody, is within reach at some times and not at others. Its rows are
looked at one by one, by the same join that says whose a reading is; near a boundary, where that is not told, a row is left
out. So a page may come back short, and its `next` goes on. Clauses 7.2b, 9.3c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import polars as pl

from analytics.point_in_time import ASSOCIATIONS, join_patients
from api.selection import CLOCK_UNCERTAINTY_US, Selection
from runtime.sql.reading_reach import Judged

_NOBODY: Final = ""
_ALLOWED: Final = pl.Schema({"handle": pl.UInt32, "whose": pl.String})
_MEASURED: Final = pl.Schema({"channel": pl.UInt32, "handle": pl.UInt32, "time_us": pl.Int64, "arrival_us": pl.Int64})
_NOT_SHOWN: Final = dict.fromkeys(("value", "time_us", "arrival_us", "quality"))  # as of a channel that never delivered


def of_one_patient(selection: Selection, patient_key: str) -> Selection:
    """The same, but of devices that were on the patient what they measured then alone."""
    devices = frozenset(handle for handle, *_ in selection.judged.spans)
    allowed = frozenset((handle, patient_key) for handle in devices if _may_show(selection.judged, handle, patient_key))
    closed = selection.judged.closed | (devices - {handle for handle, _ in allowed})
    return replace(selection, judged=replace(selection.judged, closed=closed, partly=devices - closed, allowed=allowed))


def without_doubtful(selection: Selection) -> Selection:
    """Without devices that are within reach at some times alone."""
    judged = selection.judged
    handles = [handle for handle in selection.handles or () if handle not in judged.closed | judged.partly]
    return replace(selection, handles=handles, judged=Judged())


def _may_show(judged: Judged, handle: int, patient_key: str) -> bool:
    if handle in judged.closed:
        return False
    return handle not in judged.partly or (handle, patient_key) in judged.allowed


def shown_readings(frame: pl.DataFrame, judged: Judged) -> pl.DataFrame:
    """The rows of a table of the lake that may be shown, in their order."""
    if not _in_doubt(frame, judged):
        return frame
    corrected = frame.with_columns(taken_us=pl.col("time_us") + pl.col("clock_offset_us"))
    return frame.filter(_is_shown(corrected, judged, "taken_us", "clock_uncertainty_us"))


def shown_latest(frame: pl.DataFrame, judged: Judged) -> pl.DataFrame:
    """The rows of the hosts' newest readings that may be shown: by when they were taken, and by when they came."""
    if not _in_doubt(frame, judged):
        return frame
    return frame.filter(_is_shown(frame, judged, "time_us"), _is_shown(frame, judged, "arrival_us"))


def shown_state(state: dict[str, Any], judged: Judged) -> dict[str, Any]:
    """A device as its host describes it, without the values that its channels measured of whom the caller may not see."""
    handle, channels = state["handle"], state["channels"]
    measured = [(n, handle, one["time_us"], one["arrival_us"]) for n, one in enumerate(channels) if one["time_us"] is not None]
    shown = set(shown_latest(pl.DataFrame(measured, schema=_MEASURED, orient="row"), judged)["channel"])
    key = state["patient_key"] if _may_show(judged, handle, state["patient_key"]) else None
    return state | {
        "patient_key": key,
        "channels": [one if n in shown else one | _NOT_SHOWN for n, one in enumerate(channels)],
    }


def _in_doubt(frame: pl.DataFrame, judged: Judged) -> bool:
    return bool(judged.closed or judged.partly) and not frame.is_empty()


def _is_shown(frame: pl.DataFrame, judged: Judged, at: str, uncertainty: str | None = None) -> pl.Series:
    spans = pl.DataFrame(
        [(*span, CLOCK_UNCERTAINTY_US) for span in judged.spans if span[0] in judged.partly], schema=ASSOCIATIONS, orient="row"
    )
    told = join_patients(frame, spans, at=at, uncertainty=uncertainty)
    allowed = pl.DataFrame([(handle, key or _NOBODY) for handle, key in judged.allowed], schema=_ALLOWED, orient="row")
    told = told.select(pl.col("handle").cast(pl.UInt32), "ambiguous", whose=pl.col("patient_key").fill_null(_NOBODY))
    told = told.join(allowed.with_columns(is_allowed=True), on=("handle", "whose"), how="left", maintain_order="left")
    is_whole = ~pl.col("handle").is_in(list(judged.closed | judged.partly))
    is_mine = pl.col("is_allowed").fill_null(value=False) & ~pl.col("ambiguous")
    return told.select(shown=is_whole | is_mine)["shown"]
