"""Frames per second and bytes per reading of the codec, by frame size: `python benchmarks/bench_frames.py [--quick]`."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Bench, seconds_each
from domain.frames import decode_frame, encode_frame
from domain.readings import ReadingBatch

SIZES = (1, 50, 500, 5_000)
SEED = 1


def bedside_readings(rows: int) -> ReadingBatch:
    """What a ward's gateway sends: a hundred devices, a few metrics, one second apart, whole numbers."""
    chance = np.random.default_rng(SEED)
    return ReadingBatch.of(
        handle=1000 + np.arange(rows) % 100,
        metric=1 + np.arange(rows) % 7,
        time_us=1_795_420_800_000_000 + np.arange(rows) // 100 * 1_000_000,
        value=np.round(chance.normal(80, 15, rows)),
        source=7,
        sequence=1 + np.arange(rows),
    )


def main() -> None:
    bench = Bench("frames")
    for rows in SIZES:
        readings = bedside_readings(rows)
        frame = encode_frame(readings, source=7, sequence=1, arrival_us=1)
        encode_s = seconds_each(lambda r=readings: encode_frame(r, source=7, sequence=1, arrival_us=1), bench.seconds)
        decode_s = seconds_each(lambda f=frame: decode_frame(f), bench.seconds)
        bench.note(f"encode, {rows} readings", rows / encode_s, "readings/s")
        bench.note(f"decode, {rows} readings", rows / decode_s, "readings/s")
        bench.note(f"size, {rows} readings", len(frame) / rows, "bytes/reading")
    bench.finish()


if __name__ == "__main__":
    main()
