"""Doors with TLS over a real database, a real authority of devices, and devices that are openssl, curl and mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from cluster.serving import serving
from gateways.http_door import http_door
from gateways.mqtt_door import MqttDoor
from runtime.certificates import Authority, Wanted
from runtime.clock import ManualClock
from runtime.device_authority import DeviceAuthority
from runtime.enrolment import Enrolments
from runtime.identities import SqlIdentities
from runtime.intake import StreamIntake
from runtime.receipts import StreamReceipts
from runtime.sql.credentials import EnrolmentRules, make_claim_code
from runtime.sql.engine import writing
from runtime.sql.records import Author
from runtime.tls import CertificateFiles, TakenUp
from tests.doors import MemoryBus, run
from tests.openssl import openssl

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
RULES = EnrolmentRules(code_us=HOUR_US, certificate_us=30 * DAY_US, overlap_us=HOUR_US)
HR = '{"metric": "heart_rate", "value": 72}'


def now_clock() -> ManualClock:
    """TLS looks at the machine's own clock: ours stands where that is."""
    return ManualClock(time.time_ns() // 1000)


def authority_of_devices(folder: Path) -> DeviceAuthority:
    made = Authority(folder / "devices")
    made.make_missing("sz devices", datetime.now(UTC))
    return DeviceAuthority(made)


@dataclass
class Held:
    """Files of a device: its key, its request, its certificate."""

    key: Path
    request: Path
    certificate: Path

    @classmethod
    def make(cls, folder: Path, name: str, subject: str = "/CN=whatever", curve: str = "prime256v1") -> Held:
        held = cls(*(folder / f"{name}.{kind}" for kind in ("key", "csr", "pem")))
        openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-nodes", "-subj", subject,
            "-keyout", str(held.key), "-out", str(held.request),
        )  # fmt: skip
        return held

    def again(self, folder: Path, name: str) -> Held:
        """Another request with the same key."""
        other = Held(self.key, folder / f"{name}.csr", folder / f"{name}.pem")
        openssl("req", "-new", "-key", str(self.key), "-subj", "/CN=again", "-out", str(other.request))
        return other

    def signed_by(self, certificate: Path, key: Path, *more: str) -> Held:
        """Let another authority sign what we did not."""
        openssl(
            "x509", "-req", "-in", str(self.request), "-CA", str(certificate), "-CAkey", str(key), "-CAcreateserial",
            "-out", str(self.certificate), *more,
        )  # fmt: skip
        return self


@dataclass
class Doors:
    """Both doors open. `http_port`, `mqtt_port`; `bus` has what they took."""

    engine: Engine
    folder: Path
    clock: ManualClock
    bus: MemoryBus
    identities: SqlIdentities
    enrolments: Enrolments
    authority: DeviceAuthority
    mqtt: MqttDoor
    http_port: int
    mqtt_port: int
    ca: Path
    author: Author = field(init=False)

    def __post_init__(self) -> None:
        self.author = Author("ada", "for a test", self.clock.now_us())

    def code_of(self, handle: int) -> str:
        with writing(self.engine) as connection:
            return make_claim_code(connection, Author("ada", None, self.clock.now_us()), handle, RULES)[0]

    def told(self) -> None:
        """What the doors' process does when the directory changed."""
        self.identities.forget()
        self.mqtt.recheck()

    async def curl(self, path: str, *arguments: str, held: Held | None = None) -> tuple[int, str]:
        """Status and body; 0 and curl's words when there is no answer."""
        shown = () if held is None else ("--cert", str(held.certificate), "--key", str(held.key))
        url = f"https://127.0.0.1:{self.http_port}{path}"
        code, output = await run("curl", "-sS", "--cacert", str(self.ca), "-w", "\n%{http_code}", *shown, *arguments, url)
        if code:
            return 0, output
        body, _, status = output.rpartition("\n")
        return int(status), body

    async def claim(self, code: str, held: Held | None) -> tuple[int, str]:
        body = () if held is None else ("--data-binary", f"@{held.request}")
        status, said = await self.curl("/v1/enrolment", "-X", "POST", "-H", f"Authorization: Claim {code}", *body)
        if status == 200 and held is not None:
            held.certificate.write_text(said)
        return status, said

    async def enrolled(self, handle: int, name: str) -> Held:
        """A device with a certificate, got as a device gets it."""
        held = Held.make(self.folder, name)
        status, said = await self.claim(self.code_of(handle), held)
        assert status == 200, said
        return held

    async def renew(self, new: Held, held: Held, *arguments: str) -> tuple[int, str]:
        status, said = await self.curl("/v1/certificate", "--data-binary", f"@{new.request}", *arguments, held=held)
        if status == 200:
            new.certificate.write_text(said)
        return status, said

    async def post(self, held: Held | None, *arguments: str) -> tuple[int, str]:
        """A reading at the HTTP door: status, and the problem's code."""
        status, said = await self.curl(
            "/v1/readings", "-H", "Content-Type: application/json", "-d", HR, *arguments, held=held
        )  # fmt: skip
        return status, json.loads(said).get("code", "") if status else said

    async def mosquitto(self, held: Held | None, *arguments: str) -> tuple[int, str]:
        """A reading at the MQTT door by mosquitto_pub, QoS 1: its exit code and words."""
        shown = () if held is None else ("--cert", str(held.certificate), "--key", str(held.key))
        return await run(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.mqtt_port), "--cafile", str(self.ca), "-q", "1", *shown,
            "-t", "v1/devices/me/readings", "-m", HR, *arguments,
        )  # fmt: skip

    def handles(self) -> list[int]:
        """Of readings that were stored, in order."""
        return [int(handle) for handle in self.bus.readings().handle] if self.bus.frames() else []


@contextlib.asynccontextmanager
async def open_doors(engine: Engine, folder: Path) -> AsyncIterator[Doors]:
    async def forget() -> None:
        identities.forget()
        mqtt.recheck()

    clock, bus, authority = now_clock(), MemoryBus(), authority_of_devices(folder)
    own = Authority(folder / "own")
    own.make_missing("sz", datetime.now(UTC))
    own.keep(Wanted("doors", frozenset({"127.0.0.1"}), is_server=True), datetime.now(UTC))
    files = CertificateFiles(str(own.file_of("doors")), str(own.file_of("doors")))
    tls = TakenUp.server(files, str(folder / "devices" / "ca.pem"))
    identities, enrolments = SqlIdentities(engine, clock), Enrolments(engine, authority, clock, RULES, changed=forget)
    intake = StreamIntake(bus, identities, clock, source=1)
    mqtt = MqttDoor(identities, intake, clock, tls=tls.context)
    http = http_door(identities, intake, clock, StreamReceipts(bus), enrolment=enrolments)  # type: ignore[arg-type]
    mqtt_port = await mqtt.start("127.0.0.1", 0)
    places = asyncio.create_task(identities.keep_places())
    try:
        async with serving(http, "127.0.0.1", 0, tls=tls) as http_port:
            yield Doors(
                engine, folder, clock, bus, identities, enrolments, authority, mqtt, http_port, mqtt_port, own.file
            )  # fmt: skip
    finally:
        places.cancel()
        await mqtt.close(deadline_s=1)
        await intake.close()
