"""How a device is named in a query: `hospital/device`."""

from __future__ import annotations

from domain.errors import InvalidInput
from domain.ids import parse_hospital_id, parse_token


def split_device(name: str) -> tuple[str, str]:
    """(hospital id, device id) of `sz.h012/mon-7`; raises InvalidInput."""
    hospital_id, slash, device_id = name.partition("/")
    if not slash:
        raise InvalidInput(f"device {name!r} is not of the form 'sz.h012/mon-7' (hospital, slash, device)")
    return parse_hospital_id(hospital_id), parse_token(device_id, "device id")
