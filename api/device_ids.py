"""Lists of device ids as people send them (CSV or JSON), and what they are given in a ZIP. Bounded on both sides."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from domain.errors import InvalidInput
from domain.ids import parse_token
from runtime.sql.bulk_enrolment import Row

_COLUMN: Final = "device_id"


def read_device_ids(body: bytes, media_type: str) -> list[str]:
    """In order. A CSV has a column `device_id`, others are not looked at. Raises InvalidInput naming the row that is wrong."""
    ids = _of_csv(body) if "csv" in media_type else _of_json(body)
    for number, device_id in enumerate(ids, start=1):
        try:
            parse_token(device_id, "device id")
        except InvalidInput as error:
            raise InvalidInput(f"row {number}: {error}") from None
    return ids


def _of_csv(body: bytes) -> list[str]:
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        rows = [{(name or "").strip(): value for name, value in row.items()} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the list is not CSV in UTF-8: {error}") from None
    if _COLUMN not in [name.strip() for name in reader.fieldnames or ()]:
        raise InvalidInput(f"the CSV has no column {_COLUMN}")
    return [(row.get(_COLUMN) or "").strip() for row in rows]


def _of_json(body: bytes) -> list[str]:
    try:
        return msgspec.json.decode(body, type=list[str])
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the list is not a JSON array of device ids: {error}") from None


def zip_of(rows: Sequence[Row[tuple[str, str]]]) -> bytes:
    """A file for each device that was given something, as `--cert` takes it: certificate, chain, key; and `report.csv`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("report.csv", _report(rows))
        for row in rows:
            if row.given is not None:
                key, chain = row.given
                packed.writestr(f"{row.device_id}.pem", chain + key)
    return out.getvalue()


def _report(rows: Iterable[Row[tuple[str, str]]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("row", _COLUMN, "error"))
    writer.writerows((row.row, row.device_id, row.error or "") for row in rows)
    return out.getvalue()
