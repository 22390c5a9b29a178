"""Repair of a refused message: decoded by the same codec as at the door, as the same sender, through the one Intake."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from sqlalchemy import Engine

from api.asking import Asking
from api.device_names import split_device
from api.schemas.rejects import ResubmitIn
from api.services import Backend
from domain.errors import Conflict, InvalidInput
from domain.messages import DeviceEvent
from domain.ports import Receipt, Sender
from domain.thing_catalogue import thing_model
from gateways.formats import BY_NAME, AnyFormat, format_of
from gateways.keyed import stored_once
from runtime.rejects import KeptReject
from runtime.sql.access import record_resubmission, resubmissions
from runtime.sql.devices import find_device
from runtime.sql.engine import reading
from runtime.sql.isolations import isolated_among
from runtime.sql.records import shard_of


async def resubmit(behind: Backend, who: Asking, kept: KeptReject, body: ResubmitIn) -> Receipt:
    """Send the repaired message; the reject is linked to its receipt. At most once for each reject.

    Raises RejectedInput when it is still wrong, Conflict when it was resubmitted before or is of an isolated device,
    InvalidInput, NotFound, Unavailable.
    """
    reject = kept.reject
    before = (await behind.read(resubmissions, behind.engine, [reject.reject_id])).get(reject.reject_id)
    if before is not None:
        raise Conflict(f"reject {kept.sequence} was resubmitted before: its receipt is {before['receipt']}")
    name = body.device or reject.principal
    if name is None:
        raise InvalidInput(f"the sender of reject {kept.sequence} was not known: name the device, such as 'sz.h012/mon-7'")
    sender = await behind.read(_sender, behind.engine, name)
    payload = _payload(kept, body)
    services, key, row = behind.services, f"reject-{reject.reject_id}", _format(kept, body)
    await behind.read(_check_connected, behind.engine, sender, row, payload, services.clock.now_us())
    content = row.decode(payload, sender, services.clock.now_us())
    receipt = await stored_once(services.intake, row, sender, payload, content, key)
    text = f"{receipt.shard}-{receipt.stream_sequence}"
    await behind.write(record_resubmission, behind.engine, behind.author(who), reject.reject_id, text)
    return receipt


def _sender(engine: Engine, name: str) -> Sender:
    row = find_device(engine, *split_device(name))
    with reading(engine) as connection:
        shard = shard_of(connection, row["hospital_id"])
    model = thing_model(row["model"])
    return Sender(name, row["handle"], row["hospital_id"], shard, model if model.channels else None)


def _check_connected(engine: Engine, sender: Sender, row: AnyFormat, payload: bytes, now_us: int) -> None:
    """Raise Conflict for what hosts would refuse again, since it is of a device that is still cut off."""
    said = row.decode(payload, sender, now_us)
    handles = {said.handle} if isinstance(said, DeviceEvent) else set(np.unique(said.handle).tolist())
    isolated = isolated_among(engine, sorted(handles | {sender.handle}))
    if isolated:
        raise Conflict(f"{', '.join(isolated[:5])} is isolated: release it before its messages are sent again")


def _payload(kept: KeptReject, body: ResubmitIn) -> bytes:
    if body.payload_text is not None and body.payload_base64 is not None:
        raise InvalidInput("the repaired payload is given as text or as base64, not as both")
    if body.payload_text is not None:
        return body.payload_text.encode()
    if body.payload_base64 is None:
        return kept.reject.payload
    try:
        return base64.b64decode(body.payload_base64, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"payload_base64 is not base64: {error}") from None


def _format(kept: KeptReject, body: ResubmitIn) -> AnyFormat:
    if body.format is None:
        return format_of(kept.reject.topic or "")
    if body.format not in BY_NAME:
        raise InvalidInput(f"format {body.format!r} is unknown: expected one of {', '.join(BY_NAME)}")
    return BY_NAME[body.format]
