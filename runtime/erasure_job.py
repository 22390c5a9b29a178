"""Carries requests to erase persons through, a step at a time, each durable before the next. Clause 9.3h.

Ended at any moment, the next look goes on with the step that was not marked: every step may be done again. One process
looks (upkeep); two at once do no harm, for each step finds nothing where another has been.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from domain.erasures import Step
from domain.errors import Unavailable
from domain.instants import DAY_US, US_PER_S
from domain.ports import Clock
from domain.retention import STREAM_DAYS
from runtime.data_keys import DataKeys
from runtime.erasure_certificates import certificate_text, digest_of
from runtime.lake import FILE_RETENTION_H, Lake
from runtime.lake_rewriting import drop_handle
from runtime.log_events import emptied_of
from runtime.note_signing import NoteSigner
from runtime.sealing import patient_owner
from runtime.sql import erasure_steps
from runtime.sql.erasures import begin_next, has_certificates
from runtime.sql.records import Row
from runtime.tasks import again_and_again

logger = logging.getLogger(__name__)

_HOUR_US: Final = 3600 * US_PER_S
UNCOUNTED: Final = "runs that ended before they were counted"  # in the certificate beside rows and files


@dataclass(frozen=True, slots=True)
class ErasureJob:
    """See module. `stream_retention_h`: of the readings' stream; `lake_retention_days`: of the lake.

    `hosts_write_s`: within which hosts that keep up have written what they had in hand when they heard of it.
    """

    engine: Engine
    lake: Lake
    log_folder: Path
    data_keys: DataKeys
    signer: NoteSigner
    clock: Clock
    stream_retention_h: float
    hosts_write_s: float
    lake_retention_days: int

    def once(self) -> Row | None:
        """Go on with the job that has begun, or begin the next one, as far as it goes now. The request as it stands then.

        None: nothing is due. It waits for the access log, for hosts to be told of an erasure, and for readers of the database.
        """
        row = begin_next(self.engine, self.clock.now_us())
        while row is not None and row["step"] is not None:
            following = self._steps()[Step(row["step"])](row)
            if following is None:
                return row
            logger.info("erasure %s: %s is done", row["id"], row["step"])
            row = following
        return row

    def _steps(self) -> Mapping[Step, Callable[[Row], Row | None]]:
        return {
            Step.SEVER: lambda row: erasure_steps.sever(self.engine, row, self.clock.now_us()),
            Step.KEY: self._destroy_key,
            Step.LAKE: self._leave_lake,
            Step.LOG: self._empty_log,
            Step.SETTLE: self._settle,
            Step.CERTIFY: self._certify,
        }

    def _destroy_key(self, row: Row) -> Row:
        kids = self.data_keys.kids_of(patient_owner("", row["patient_key"]).name)
        return erasure_steps.destroy_key(self.engine, row, self.clock.now_us(), kids)

    def _leave_lake(self, row: Row) -> Row:
        return self._take_from_lake(row, Step.LOG)

    def _take_from_lake(self, row: Row, following: Step) -> Row:
        """Take out what is there now, and count it. A run that is killed before its mark leaves word that it is not counted."""
        before = row["counts"].get("lake", {"rows": 0, "files": 0})
        begun = {**before, UNCOUNTED: before.get(UNCOUNTED, 0) + 1}
        row = erasure_steps.note_begun(self.engine, row, lake=begun)
        hospital_id, handle = erasure_steps.patient_handle(self.engine, row["patient_key"])
        counted = before
        try:
            for rows in drop_handle(self.lake, hospital_id, handle):
                counted = {**counted, "rows": counted["rows"] + rows, "files": counted["files"] + 1}
        except Unavailable:  # it is tried again; what left by now is counted
            erasure_steps.note_begun(self.engine, row, lake=counted)
            raise
        return erasure_steps.note_done(self.engine, row, following, lake=counted)

    def _empty_log(self, row: Row) -> Row | None:
        found = emptied_of(self.log_folder, row["patient_key"])
        if found is None:
            return None
        log = {"events emptied": found.emptied, "events kept, for others are in them or they tell of this": found.kept}
        return erasure_steps.note_done(self.engine, row, Step.SETTLE, log=log)

    def _settle(self, row: Row) -> Row | None:
        """And once more the lake: hosts may have written what they had in hand before they heard, or a restored stream had.

        What one that is far behind writes after that, the certificate says, ages out.
        """
        written_us = self.clock.now_us() - round(self.hosts_write_s * US_PER_S)
        if not erasure_steps.was_told(self.engine, row, written_us) or not erasure_steps.settle(self.engine):
            return None
        return self._take_from_lake(row, Step.CERTIFY)

    def _certify(self, row: Row) -> Row:
        now_us = self.clock.now_us()
        if not has_certificates(self.engine):  # else a lost key is made anew by nobody: it would hide that
            self.signer.make_keys()
        certificate = self.signer.sign(certificate_text(row, now_us, self._until_us(now_us))).decode()
        return erasure_steps.certify(self.engine, row, now_us, certificate, digest_of(certificate))

    def _until_us(self, now_us: int) -> dict[str, int | None]:
        """Where opaque keys and numbers, which lead to nobody any more, still lie."""
        return {
            "older versions of the lake": now_us + FILE_RETENTION_H * _HOUR_US,
            "lake, what hosts that were behind write there after this": now_us + (self.lake_retention_days + 1) * DAY_US,
            "stream of readings": now_us + round(self.stream_retention_h * _HOUR_US),
            "streams of alarms and rejects": now_us + STREAM_DAYS * DAY_US,
            "stream of the access log, its last 1,000 records": None,
            "snapshots of hosts": None,
        }


async def keep_erasing(job: ErasureJob, every_s: float) -> None:
    """For ever. What fails, whatever it is, is logged and tried again after `every_s`, from the step that was not marked.

    The erasures behind it wait. One that does not come to its end in `domain.risks.OVERDUE_DAYS` is a risk, `erasure-stuck`.
    """

    def all_due() -> None:
        while (row := job.once()) is not None and row["step"] is None:
            logger.info("a person was erased, and it is certified", extra={"erasure": row["id"]})

    await again_and_again(all_due, every_s, "erasure does not go on; it is tried again")
