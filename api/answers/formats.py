"""The formats of a table of readings: what the caller accepts, and how each is written.

An answer names the version of the lake it was read from in its body as well as in its headers: JSON as a member, CSV
as a comment line before the header, Arrow in the schema's metadata. In CSV a text that a spreadsheet would take for a formula
has a `'` before it: some texts are written by devices' makers, or by whoever speaks as a device.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
import polars as pl
import pyarrow as pa
from fastapi import Depends, Header, Query
from fastapi.responses import Response

from api.answers.columns import time_stamp, time_text
from api.errors import NotAcceptable
from api.times import Zone


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


MEDIA_TYPES: Final = {
    Format.JSON: "application/json",
    Format.CSV: "text/csv; charset=utf-8",
    Format.ARROW: "application/vnd.apache.arrow.stream",
}
_BY_ACCEPT: Final = {
    "application/json": Format.JSON, "application/*": Format.JSON, "*/*": Format.JSON, "text/csv": Format.CSV,
    "text/*": Format.CSV, "application/vnd.apache.arrow.stream": Format.ARROW,
}  # fmt: skip
TABLE_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A table of rows.",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {
            "X-Lake-Version": {"schema": {"type": "integer"}, "description": "Version of the lake that was read."},
            "Link": {"schema": {"type": "string"}, "description": "The next page, if there is one."},
        },
    }
}


_TIMES: Final = {
    "time_us": "time", "arrival_us": "arrival", "bucket_us": "bucket", "last_time_us": "last_time",
    "onset_us": "onset", "end_us": "end",
}  # fmt: skip
_FORMULA: Final = r"^[=+\-@\t\r]"


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Rows to be written.

    times: columns of microseconds and the name each is shown under; units: of the columns, for the CSV header;
    about: members beside the rows (`lake_version`, `next`, …).
    """

    frame: pl.DataFrame
    zone: Zone
    about: dict[str, Any]
    times: dict[str, str] = field(default_factory=lambda: dict(_TIMES))
    units: str = ""
    name: str = "readings"  # of the file that CSV and Arrow are saved as


def accepted_format(accept: str | None) -> Format:
    """The first format of an Accept header that we offer; raises NotAcceptable when none is."""
    for part in (accept or "*/*").split(","):
        found = _BY_ACCEPT.get(part.partition(";")[0].strip().lower())
        if found is not None:
            return found
    raise NotAcceptable(f"none of {accept!r} is offered: expected one of {', '.join(sorted(MEDIA_TYPES.values()))}")


async def _format(
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    chosen: Annotated[Format | None, Query(alias="format", description="Goes before the Accept header.")] = None,
) -> Format:
    return chosen or accepted_format(accept)


Wanted = Annotated[Format, Depends(_format)]


def table_response(answer: TableAnswer, wanted: Format) -> Response:
    """Write the answer. Takes time in proportion to its rows: call it in a thread."""
    body = {Format.JSON: _json, Format.CSV: _csv, Format.ARROW: _arrow}[wanted](answer)
    headers = {}
    if answer.about.get("lake_version") is not None:
        headers["X-Lake-Version"] = str(answer.about["lake_version"])
    if answer.about.get("next"):
        headers["Link"] = f'<{answer.about["next"]}>; rel="next"'
    if wanted is not Format.JSON:
        headers["Content-Disposition"] = f'attachment; filename="{answer.name}.{wanted.value}"'
    return Response(body, 200, headers, MEDIA_TYPES[wanted])


def _json(answer: TableAnswer) -> bytes:
    rows = _with_times(answer, []).write_json()  # what is not finite is null
    return b'{"items":%s,%s' % (rows.encode(), msgspec.json.encode(answer.about)[1:])


def _csv(answer: TableAnswer) -> bytes:
    about = {"time zone": answer.zone.name, "units": answer.units} | answer.about
    comments = "".join(
        f"# {name.replace('_', ' ')}: {_plain(value)}\n" for name, value in about.items() if value not in (None, "")
    )
    lists = [pl.col(name).list.join("|") for name, dtype in answer.frame.schema.items() if isinstance(dtype, pl.List)]
    floats = [pl.col(name).fill_nan(None) for name, dtype in answer.frame.schema.items() if dtype.is_float()]
    return comments.encode() + _without_formulas(_with_times(answer, lists + floats)).write_csv().encode()


def _without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts that begin as formulas do, marked as texts; numbers stay as they are."""
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    marked = [
        pl.when(pl.col(name).str.contains(_FORMULA)).then(pl.lit("'") + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    ]
    return frame.with_columns(marked)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _arrow(answer: TableAnswer) -> bytes:
    times = {name: shown for name, shown in answer.times.items() if name in answer.frame.columns}
    stamps = [time_stamp(name, answer.zone).alias(shown) for name, shown in times.items()]
    table = answer.frame.with_columns(stamps).drop(times).to_arrow(compat_level=pl.CompatLevel.oldest())
    metadata = {name: _plain(value) for name, value in answer.about.items() if value is not None}
    sink = io.BytesIO()
    table = table.replace_schema_metadata(metadata)
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _with_times(answer: TableAnswer, others: list[pl.Expr]) -> pl.DataFrame:
    """Instants as text, in the place where their microseconds stood."""
    shown = [name for name in answer.times if name in answer.frame.columns]
    frame = answer.frame.with_columns_seq(*others, *(time_text(name, answer.zone) for name in shown))
    return frame.rename({name: answer.times[name] for name in shown})
