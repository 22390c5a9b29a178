"""What people enter for a patient: readings of the patient's own handle, by the one Intake, marked as entered."""

from __future__ import annotations

import msgspec
import numpy as np
from sqlalchemy import Engine

from api.asking import Asking
from api.schemas.patients import ObservationsIn
from api.services import Backend
from domain.ports import Receipt, Sender
from domain.quality import Origin, pack
from domain.readings import ReadingBatch
from domain.thing_catalogue import thing_model
from gateways.readings_json import decode_readings
from runtime.sql import patients
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Row, log_write, shard_of


async def enter_observations(behind: Backend, who: Asking, patient_key: str, body: ObservationsIn, key: str | None) -> Receipt:
    """Check, log and submit; returns once the stream has them. With `key`, a repetition gets the first receipt.

    Raises NotFound, RejectedInput, Conflict (the key was used for another body) and Unavailable.
    """
    sender = await behind.read(_chart_of, behind.services.engine, patient_key)
    payload = msgspec.json.encode({"readings": body.model_dump(exclude_none=True)["observations"]})
    intake = behind.services.intake
    batch = _entered(payload, sender, behind.services.clock.now_us())
    if key is None:
        await behind.write(_note, behind.services.engine, behind.author(who), patient_key, body)
        return await intake.submit(sender, batch)
    claim = await intake.claim(sender, batch, key, payload)
    batch = _entered(payload, sender, claim.arrival_us)
    if claim.receipt is None:
        await behind.write(_note, behind.services.engine, behind.author(who), patient_key, body)
    return await intake.submit_once(sender, batch, claim)


def _entered(payload: bytes, sender: Sender, arrival_us: int) -> ReadingBatch:
    batch = decode_readings(payload, sender, arrival_us)
    return batch.with_columns(quality=batch.quality | np.uint16(pack(origin=Origin.ENTERED)))


def _chart_of(engine: Engine, patient_key: str) -> Sender:
    row: Row = patients.get_patient(engine, patient_key)
    with reading(engine) as connection:
        shard = shard_of(connection, row["hospital_id"])
    name = f"patient:{row['hospital_id']}/{patient_key}"
    return Sender(name, row["handle"], row["hospital_id"], shard, thing_model("patient-chart"))


def _note(engine: Engine, author: Author, patient_key: str, body: ObservationsIn) -> None:
    metrics = ", ".join(observation.metric for observation in body.observations)
    with writing(engine) as connection:
        log_write(connection, author, "observation.enter", f"{patient_key}: {metrics}"[:200])
