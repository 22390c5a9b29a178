"""`python -m tests.faults.power_cut --cuts 5 --seed 1`: the power fails under load, again and again; exit code 1 when
something that was acknowledged is lost, doubled or changed, or when a platform that is broken on purpose shows nothing.

The data directory lies on a disk image. Each cut: load for some seconds, then every process is killed and the image is
taken as it lies there, with the file system still mounted, which is what the disk has after a power cut: what was not
fsynced is missing. A platform is started from it. Then the history checker decides, receipts that senders hold are looked
up, and the load goes on to the next cut.

At last one cut of each platform of `BROKEN`, with the same settings, load and checks: what is to be fsynced is not, and
the checker has to say LOST, else the cut proves nothing. Seen so: of 2,520 acknowledged readings 674 were lost, and all
122 receipts with them, where streams were left to the operating system; 1,520 where the lake was, since snapshots behind
which the stream is read again were on disk before it. `--cuts 0 --broken NAME` plays one of them alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from tests.faults.checker import Verdict
from tests.faults.fault_run import FaultBench
from tests.faults.observing import positions
from tests.faults.small_disks import SmallDisk, why_none
from tests.faults.stand import Stand

_IMAGE_MIB: Final = 1024
_OPTIONS: Final = "loop,commit=300"  # the file system writes of its own accord as seldom as it can
_RESERVE_BYTES: Final = 64 * 2**20
_FLUSH_S: Final = 5.0  # longer than most loads: what was acknowledged is in the stream alone
_BROKEN_LOAD_S: Final = 9.0  # longer than it: something has been committed, and behind it is more
_LOAD_S: Final = (2.0, 7.0)
_SETTLE_S: Final = 45.0
_BROKEN_SETTLE_S: Final = 20.0
_RECEIPT_EVERY_S: Final = 0.05
BROKEN: Final = ("leaves-streams-unsynced", "leaves-lake-unsynced")


@dataclass(slots=True)
class Receipts:
    """A device that posts single readings over HTTP and keeps the receipts it is given."""

    port: int
    token: str
    kept: list[str] = field(default_factory=list)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def collect(self) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=self._headers, trust_env=False) as http:
            while True:
                answer = await http.post("/v1/readings", json={"metric": "spo2", "value": 97.0})
                if answer.status_code == httpx.codes.OK:
                    self.kept.append(answer.json()["receipt"])
                await asyncio.sleep(_RECEIPT_EVERY_S)

    async def missing(self) -> list[str]:
        """Receipts whose reading is in neither stream nor lake any more."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=self._headers, trust_env=False) as http:
            answers = [(receipt, await http.get(f"/v1/receipts/{receipt}")) for receipt in self.kept]
        return [receipt for receipt, answer in answers if answer.status_code != httpx.codes.OK or not answer.json()["kept_in"]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of one. `receipts`: how many there were."""

    number: int
    load_s: float
    verdict: Verdict
    receipts: int
    missing: list[str]

    @property
    def holds(self) -> bool:
        return self.verdict.holds and not self.missing

    def __str__(self) -> str:
        book = self.verdict.ledger
        lines = [
            f"cut {self.number} after {self.load_s:.1f} s: sent {book.sent}, acknowledged {book.acknowledged}, stored "
            f"{book.stored}, lost {book.lost}, doubled {book.doubled}, never sent {book.unexpected}; "
            f"receipts {self.receipts}, of which nothing is kept: {len(self.missing)}"
        ]
        return "\n".join([*lines, *(f"  BROKEN {violation}" for violation in self.verdict.violations)])


async def cut_power(bench: FaultBench, disks: list[SmallDisk]) -> None:
    """Kill every process, take the disks as a power cut leaves them, and start again from them."""
    await bench.stand.kill_whole()
    for disk in disks:
        await asyncio.to_thread(disk.lose_power)
    await bench.start()


async def play(bench: FaultBench, disk: SmallDisk, number: int, rng: np.random.Generator) -> Cut:
    """One cut under load, and the platform from what is left."""
    is_sound = bench.stand.is_sound
    load_s, settle_s = (float(rng.uniform(*_LOAD_S)), _SETTLE_S) if is_sound else (_BROKEN_LOAD_S, _BROKEN_SETTLE_S)
    since, load = await positions(bench.stand), bench.new_load(number)
    assert bench.cast is not None
    receipts = Receipts(bench.stand.running.connection.http_port, bench.cast.devices[0].token)
    await load.start(bench.stand.door_port)
    collecting = asyncio.create_task(receipts.collect())
    load.cross(number % len(load.probes))
    await asyncio.sleep(load_s)
    cutting = asyncio.create_task(cut_power(bench, [disk]))
    await asyncio.gather(collecting, return_exceptions=True)  # its connection ends with the doors
    await load.close()
    await cutting
    now_us, loop = bench.clock.now_us(), asyncio.get_running_loop()
    history = load.history
    history.until = now_us  # the sequences of the next load begin there
    verdict = await bench.verdict_of(history, since, now_us + 30_000_000, loop.time() + settle_s)
    return Cut(number, load_s, verdict, len(receipts.kept), await receipts.missing())


async def series(folder: Path, seed: int, cuts: int, broken: tuple[str, ...] = ()) -> list[Cut]:
    """`cuts` of one platform in a row; said as they end."""
    disk = SmallDisk(folder / "disk", _IMAGE_MIB, _OPTIONS)
    stand = Stand(
        disk.folder / "var", proxied=False, broken=broken, STORAGE__RESERVE_BYTES=str(_RESERVE_BYTES),
        LAKE__FLUSH_INTERVAL_S=str(_FLUSH_S),
    )  # fmt: skip
    bench, rng, done = FaultBench(stand), np.random.default_rng([seed, 11]), []
    try:
        await bench.start()
        for number in range(cuts):
            done.append(await play(bench, disk, number, rng))
            sys.stdout.write(f"{done[-1]}\n")
            sys.stdout.flush()
    finally:
        await stand.close()
        disk.unmount()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="make power-cut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=5, help="of the platform as it is")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", nargs="*", choices=BROKEN, default=BROKEN, help="platforms that have to lose")
    given = parser.parse_args()
    if (reason := why_none()) is not None:
        sys.stdout.write(f"SKIPPED: {reason}\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="vitalgrid-power-cut-") as aside:
        done = asyncio.run(series(Path(aside) / "sound", given.seed, given.cuts)) if given.cuts else []
        lost: dict[str, int] = {}
        for name in given.broken:
            sys.stdout.write(f"and a platform that {name}, which has to lose:\n")
            (cut,) = asyncio.run(series(Path(aside) / name, given.seed, 1, (name,)))
            lost[name] = cut.verdict.ledger.lost
    broken = sum(not cut.holds for cut in done)
    said = [f"{len(done)} cuts, {broken} broken", *(f"{name}: {count} lost" for name, count in lost.items())]
    sys.stdout.write(f"{'; '.join(said)}\n")
    return int(broken > 0 or not all(lost.values()))


if __name__ == "__main__":
    sys.exit(main())
