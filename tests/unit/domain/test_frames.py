"""Frames: what goes in comes out, what was damaged is noticed, and nothing else ever escapes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import IntegrityViolation, RejectedInput
from domain.frames import MAGIC, MAX_ROWS, as_it_came, decode_frame, decode_header, encode_batches, encode_frame
from domain.readings import DTYPES, SCHEMA, EncodedBatch, ReadingBatch

HEADER = struct.Struct("<4sBBHIIIIQq")
CRC_END = 12


def batch_of(rows: int, seed: int = 0) -> ReadingBatch:
    chance = np.random.default_rng(seed)
    return ReadingBatch.of(
        handle=chance.integers(1, 2**32, rows, dtype=np.uint32),
        instance=chance.integers(0, 256, rows),
        metric=chance.integers(0, 2**16, rows),
        time_us=chance.integers(-(2**62), 2**62, rows),
        value=chance.normal(80, 20, rows),
        quality=chance.integers(0, 2**16, rows),
        source=chance.integers(0, 2**32, rows, dtype=np.uint32),
        sequence=chance.integers(0, 2**63, rows, dtype=np.uint64),
        raw_value=np.full(rows, np.nan),
        raw_unit=chance.integers(0, 2**16, rows),
    )


def assert_same(left: ReadingBatch, right: ReadingBatch) -> None:
    for name, dtype in DTYPES.items():
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


def resealed(frame: bytes) -> bytes:
    """`frame` with a checksum that fits its bytes: what a careful but different writer would send."""
    return frame[: CRC_END - 4] + zlib.crc32(frame[CRC_END:]).to_bytes(4, "little") + frame[CRC_END:]


any_column = {
    "handle": st.integers(0, 2**32 - 1), "instance": st.integers(0, 255), "metric": st.integers(0, 2**16 - 1),
    "time_us": st.integers(-(2**63), 2**63 - 1), "value": st.floats(width=64), "quality": st.integers(0, 2**16 - 1),
    "source": st.integers(0, 2**32 - 1), "sequence": st.integers(0, 2**64 - 1), "raw_value": st.floats(width=64),
    "raw_unit": st.integers(0, 2**16 - 1),
}  # fmt: skip


@st.composite
def any_batch(draw: st.DrawFn) -> ReadingBatch:
    rows = draw(st.integers(0, 20))
    columns = {name: draw(st.lists(values, min_size=rows, max_size=rows)) for name, values in any_column.items()}
    return ReadingBatch(**{name: np.array(columns[name], dtype) for name, dtype in DTYPES.items()})


@pytest.mark.clause("5.4b")
@given(any_batch(), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_every_batch_comes_back_as_it_was(readings, source, sequence, arrival_us):
    frame = decode_frame(encode_frame(readings, source=source, sequence=sequence, arrival_us=arrival_us))
    assert (frame.header.source, frame.header.sequence, frame.header.arrival_us) == (source, sequence, arrival_us)
    assert frame.header.rows == len(readings)
    assert_same(frame.readings, readings)


@pytest.mark.parametrize("rows", [1, 500, MAX_ROWS])
def test_frames_of_any_allowed_size_come_back(rows):
    readings = batch_of(rows)
    assert_same(decode_frame(encode_frame(readings, source=1, sequence=1, arrival_us=1)).readings, readings)


def received(rows: int, seed: int) -> ReadingBatch:
    """Readings that came in a frame, with its bytes if these are worth keeping."""
    data = encode_frame(batch_of(rows, seed), source=7, sequence=seed, arrival_us=1)
    frame = decode_frame(data)
    return as_it_came(frame.readings, data, frame)


@given(st.lists(st.sampled_from([0, 1, 999, 1_000, 1_500]), max_size=6), st.randoms())
def test_batches_go_on_in_one_frame_in_their_order_however_they_came(sizes, chance):
    batches = [received(rows, seed) if chance.random() < 0.6 else batch_of(rows, seed) for seed, rows in enumerate(sizes)]
    frame = decode_frame(encode_batches(batches, source=1, sequence=2, arrival_us=3))
    assert frame.header.rows == sum(sizes)
    assert_same(frame.readings, ReadingBatch.concat(batches))


def test_the_bytes_of_a_frame_go_on_only_with_the_very_rows_they_hold():
    data = encode_frame(batch_of(2_000), source=7, sequence=1, arrival_us=1)
    frame = decode_frame(data)
    as_it_is = as_it_came(frame.readings, data, frame)
    assert isinstance(as_it_is, EncodedBatch)
    assert as_it_is.body in encode_batches([as_it_is, batch_of(3)], source=1, sequence=1, arrival_us=1)
    marked = frame.readings.with_columns(quality=frame.readings.quality ^ np.uint16(1))
    assert not isinstance(as_it_came(marked, data, frame), EncodedBatch)
    made_of_it = (as_it_is.take(slice(None)), as_it_is.with_columns(value=as_it_is.value), ReadingBatch.concat([as_it_is]))
    assert not any(isinstance(batch, EncodedBatch) for batch in made_of_it)


def test_the_bytes_of_a_padded_frame_do_not_go_on():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch_of(1_000).to_arrow(), custom_metadata={"padding": "x" * 200_000})
    plain = pa.BufferOutputStream()
    pa.ipc.new_stream(plain, SCHEMA).close()
    body = sink.getvalue().to_pybytes()[len(plain.getvalue()) - 8 : -8]
    header = HEADER.pack(MAGIC, 1, 1, HEADER.size, 0, len(body), 1_000, 7, 1, 1)
    data = resealed(header + body)
    frame = decode_frame(data)
    assert_same(frame.readings, batch_of(1_000))
    assert not isinstance(as_it_came(frame.readings, data, frame), EncodedBatch)


def test_a_frame_of_one_row_too_many_is_refused_before_it_is_sent():
    with pytest.raises(RejectedInput) as refused:
        encode_frame(batch_of(MAX_ROWS + 1), source=1, sequence=1, arrival_us=1)
    assert refused.value.reason == "frame-too-large"


def test_a_tick_is_a_header_alone():
    tick = encode_frame(ReadingBatch.empty(), source=0, sequence=3, arrival_us=5)
    assert len(tick) == HEADER.size
    assert decode_header(tick).arrival_us == 5
    assert len(decode_frame(tick).readings) == 0


@pytest.mark.clause("5.4c")
@settings(deadline=None)
@given(rows=st.integers(0, 30), data=st.data())
def test_every_single_flipped_bit_is_noticed(rows, data):
    frame = bytearray(encode_frame(batch_of(rows), source=7, sequence=9, arrival_us=11))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises((RejectedInput, IntegrityViolation)):
        decode_frame(bytes(frame))


@pytest.mark.clause("5.4c")
def test_every_flipped_bit_of_one_frame_is_noticed():
    whole = encode_frame(batch_of(3), source=7, sequence=9, arrival_us=11)
    for bit in range(8 * len(whole)):
        frame = bytearray(whole)
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises((RejectedInput, IntegrityViolation)):
            decode_header(bytes(frame))


@pytest.mark.clause("5.4c")
def test_a_truncated_or_padded_frame_is_noticed():
    whole = encode_frame(batch_of(4), source=1, sequence=1, arrival_us=1)
    for length in range(len(whole)):
        with pytest.raises((RejectedInput, IntegrityViolation)):
            decode_frame(whole[:length])
    with pytest.raises(RejectedInput):
        decode_frame(whole + b"\0")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_our_own_words(noise):
    with pytest.raises((RejectedInput, IntegrityViolation)):
        decode_frame(noise)


@given(payload=st.binary(min_size=1, max_size=400), rows=st.integers(1, 2 * MAX_ROWS))
def test_a_sealed_frame_of_nonsense_is_refused_in_our_own_words(payload, rows):
    header = HEADER.pack(MAGIC, 1, 1, HEADER.size, 0, len(payload), rows, 1, 1, 1)
    with pytest.raises(RejectedInput):
        decode_frame(resealed(header + payload))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_sealed_frame_with_altered_bytes_never_escapes_our_errors(data):
    frame = bytearray(encode_frame(batch_of(6), source=1, sequence=1, arrival_us=1))
    for _ in range(data.draw(st.integers(1, 8))):
        frame[data.draw(st.integers(HEADER.size, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_frame(resealed(bytes(frame)))
    except (RejectedInput, IntegrityViolation):
        return
    assert len(decoded.readings) == decoded.header.rows


@pytest.mark.parametrize("claimed", [2**62, -2, 2**63 - 1])
def test_a_sealed_frame_that_claims_absurd_sizes_is_refused_in_our_own_words(claimed):
    """LZ4 buffers begin with their size when unpacked; a liar must not take the door's memory."""
    frame = bytearray(encode_frame(ReadingBatch.of(handle=np.ones(3000), metric=1, time_us=5, value=2.0),
                                   source=1, sequence=1, arrival_us=1))  # fmt: skip
    sizes = [at for at in range(HEADER.size, len(frame) - 8, 8) if struct.unpack_from("<q", frame, at)[0] == 3000 * 4]
    assert sizes, "expected the unpacked size of the handle column in the payload"
    for at in sizes:
        struct.pack_into("<q", frame, at, claimed)
    with pytest.raises(RejectedInput):
        decode_frame(resealed(bytes(frame)))


def test_rows_that_differ_from_the_header_are_refused():
    frame = bytearray(encode_frame(batch_of(4), source=1, sequence=1, arrival_us=1))
    struct.pack_into("<I", frame, 16, 5)
    with pytest.raises(RejectedInput, match="5 rows and holds 4"):
        decode_frame(resealed(bytes(frame)))


@pytest.mark.clause("5.4b")
@pytest.mark.parametrize("extra", [1, 8, 200])
def test_a_later_writer_may_lengthen_the_header(extra):
    readings = batch_of(5)
    frame = encode_frame(readings, source=1, sequence=2, arrival_us=3)
    longer = bytearray(frame[: HEADER.size] + b"\xaa" * extra + frame[HEADER.size :])
    struct.pack_into("<H", longer, 6, HEADER.size + extra)
    decoded = decode_frame(resealed(bytes(longer)))
    assert decoded.header.sequence == 2
    assert_same(decoded.readings, readings)


@pytest.mark.parametrize(("offset", "value"), [(4, 2), (4, 0), (5, 2)])
def test_a_version_or_kind_of_another_time_is_refused_by_name(offset, value):
    frame = bytearray(encode_frame(batch_of(1), source=1, sequence=1, arrival_us=1))
    frame[offset] = value
    with pytest.raises(RejectedInput) as refused:
        decode_frame(resealed(bytes(frame)))
    assert refused.value.reason == "frame-version"


def test_the_layout_on_the_wire_is_the_one_we_published():
    """Golden bytes: the schema of version 1 and a header, as they have been on disk since the first release."""
    tick = encode_frame(ReadingBatch.empty(), source=0x01020304, sequence=5, arrival_us=-1)
    assert tick[:8] == b"VGFR\x01\x01\x28\x00"
    assert tick[12:].hex() == "0000000000000000" + "04030201" + "0500000000000000" + "ffffffffffffffff"
    assert [(field.name, str(field.type), field.nullable) for field in SCHEMA] == [
        ("handle", "uint32", False), ("instance", "uint8", False), ("metric", "uint16", False), ("time_us", "int64", False),
        ("value", "double", False), ("quality", "uint16", False), ("source", "uint32", False),
        ("sequence", "uint64", False), ("raw_value", "double", False), ("raw_unit", "uint16", False),
    ]  # fmt: skip


def test_the_payload_is_a_plain_arrow_message_that_others_can_read():
    readings = batch_of(10)
    frame = encode_frame(readings, source=1, sequence=1, arrival_us=1)
    batch = pa.ipc.read_record_batch(pa.py_buffer(frame[HEADER.size :]), SCHEMA)
    assert_same(ReadingBatch.from_arrow(batch), readings)
