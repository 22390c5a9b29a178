"""Patients whom no device watches any more: every vital channel in use is lost together. High priority. Clause 6.3f.

The vital channels are those of the vital-signs group on all patient-bound devices now associated with the patient, that
gave a usable value before. Devices under maintenance are left out: nobody expects them to watch. Where all of them are
part of an outage of the hospital, the hospital's alarm speaks for them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from actors.alarm_writing import Alarm, about_patient, patient_scope
from actors.associations import Associations
from actors.roster import Roster
from actors.signals import Signals
from actors.technical_alarms import SETTLE_US
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import NEVER_US

RULE: Final = "technical.patient-not-monitored"
RULE_VERSION: Final = 1


class Unmonitored:
    """Keeps its state in the roster's patient columns `lost_since_us` and `lost_is_raised`."""

    def __init__(self, roster: Roster, associations: Associations) -> None:
        self._roster = roster
        self._associations = associations

    def tick(self, signals: Signals, now_us: int, clock_us: int) -> list[AlarmEvent]:
        """Who is not monitored, or monitored again, at stream time `now_us`, when the platform's clock says `clock_us`."""
        table = self._roster.patients
        if not len(table):
            return []
        is_lost = self._lost_patients(signals, clock_us)
        since, raised = table["lost_since_us"], table["lost_is_raised"]
        since[is_lost & (since == NEVER_US)] = now_us
        due = is_lost & ~raised & (now_us - np.where(is_lost, since, now_us) >= SETTLE_US)
        over = raised & ~is_lost
        events = [self._notice(patient, Phase.START, now_us) for patient in np.flatnonzero(due).tolist()]
        events += [self._notice(patient, Phase.END, now_us) for patient in np.flatnonzero(over).tolist()]
        raised[due], raised[over] = True, False
        since[~is_lost] = NEVER_US
        return events

    def _lost_patients(self, signals: Signals, now_us: int) -> NDArray[np.bool_]:
        table = self._roster.devices
        vital = self._roster.channels["is_vital"] & signals.used
        used = signals.per_device(vital)
        watching = np.flatnonzero((used > 0) & ~self._roster.in_maintenance(np.arange(len(table)), now_us))
        patients = self._associations.patients_at(watching, np.full(len(watching), now_us, dtype=np.int64))
        watching, patients = watching[patients >= 0], patients[patients >= 0]
        lost = signals.per_device(vital & signals.lost)

        def count(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.bincount(patients, numbers[watching], len(self._roster.patients)).astype(np.int64)

        told_singly = count((lost > 0) & ~table["in_outage"])
        is_lost: NDArray[np.bool_] = (count(used) > 0) & (count(used) == count(lost)) & (told_singly > 0)
        return is_lost & (self._roster.patients["discharged_us"] > now_us)

    def _notice(self, patient: int, phase: Phase, now_us: int) -> AlarmEvent:
        roster = self._roster
        onset_us = int(roster.patients["lost_since_us"][patient])
        scope, subject = patient_scope(roster, patient), about_patient(roster, patient)
        text = "Patient not monitored: all vital signs are lost" if phase is Phase.START else "Patient is monitored again"
        return Alarm(scope, RULE, RULE_VERSION, AlertType.TECHNICAL, subject, onset_us).notice(
            phase, Priority.HIGH, text, event_us=now_us, arrival_us=now_us, latching=True
        )
