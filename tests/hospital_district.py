"""A platform with hospitals whose programs come to the bus: real server, database and application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from sqlalchemy import Engine

from api.app import create_app
from api.live.hospital_streams import HospitalStreams
from cluster.hospital_access import HospitalAccess
from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.bus_rights import API, BUS_RIGHTS, SUPERVISOR
from domain.fleet_manifest import Tier
from domain.principals import Place, Role
from runtime.access_journal import IN_MEMORY, AccessJournal, NewAccess
from runtime.bus import Bus
from runtime.bus_access import BusCertificate, CertificateAccess, wanted_by_process
from runtime.callers import SqlCallers
from runtime.certificates import Authority, Wanted, pem_of_key
from runtime.clock import SystemClock
from runtime.nats_server import NatsServer
from runtime.sql import access, places
from runtime.sql.records import Author
from runtime.sql.sessions import SessionRules
from runtime.tasks import end
from runtime.tls import CertificateFiles, TakenUp, Trust
from tests.sql_fixtures import HOUR_US, SHARDS
from tests.unit.api.conftest import API as PATHS
from tests.unit.api.conftest import client_of, services_of

OWN, OTHER = "sz.h001", "sz.h002"
HOST = "host-1"
AUTHOR = Author("ada", None, 1_700_000_000_000_000)


class Remembering(AccessJournal):
    """What was noted leaves the journal for the access log: this one remembers it."""

    seen: list[bytes]

    def add(self, accesses: Sequence[NewAccess]) -> None:
        super().add(accesses)
        self.seen += [access.event for access in accesses]


@dataclass
class Program:
    """A hospital's program, and what it heard."""

    client: Client
    made: dict[str, Any]
    token: str
    heard: list[tuple[str, int | None, dict[str, Any]]] = field(default_factory=list)  # event, id, data
    numbers: list[int] = field(default_factory=list)
    unnumbered: list[bytes] = field(default_factory=list)
    hearing: Subscription | None = None

    async def listen(self) -> None:
        async def take(message: Msg) -> None:
            lines = dict(line.partition(": ")[::2] for line in message.data.decode().splitlines() if line)
            if "Vitalgrid-Number" not in (message.headers or {}):
                self.unnumbered.append(message.data)
                return
            self.numbers.append(int((message.headers or {})["Vitalgrid-Number"]))
            self.heard.append((lines["event"], int(lines["id"]) if "id" in lines else None, json.loads(lines["data"])))

        self.hearing = await self.client.subscribe(self.made["hears"], cb=take)

    async def ask(self, **more: Any) -> tuple[str | None, str]:
        """The code of the error, if any, and what was answered."""
        question = json.dumps({"token": self.token} | more).encode()
        answer = await self.client.request(self.made["asks"], question, timeout=10)
        return (answer.headers or {}).get("Vitalgrid-Error"), answer.data.decode()

    async def go_on(self) -> tuple[str | None, str]:
        return await self.ask(goes_on=self.numbers[-1] if self.numbers else 0)

    def alarms(self) -> list[str]:
        return _alarms(self.heard)

    def alarms_of_this_stream(self) -> list[str]:
        """Since it was last answered anew, when messages count from 1."""
        return _alarms(self.heard[-(self.numbers[::-1].index(1) + 1) :])


def _alarms(heard: Sequence[tuple[str, int | None, dict[str, Any]]]) -> list[str]:
    return [data["event"]["event_id"] for event, _, data in heard if event == "alarm"]


@dataclass
class District:
    """A platform's bus, database and API."""

    server: NatsServer
    authority: Authority
    folder: Path
    engine: Engine
    http: httpx.AsyncClient
    host: Bus
    api: Bus
    journal: Remembering
    hospitals: HospitalAccess
    streams: asyncio.Task[None]
    stopped: list[Client] = field(default_factory=list)

    def token(self, name: str, role: Role, place: str) -> str:
        return access.create_token(self.engine, AUTHOR, name, role, Place.parse(place))

    async def certify(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Key and certificate of the program that token `name` is of, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        body = {"request": request.public_bytes(Encoding.PEM).decode()}
        answer = await self.http.post(f"/tokens/{name}/bus-certificates", json=body)
        assert answer.status_code == 201, answer.text
        made, file = answer.json(), self.folder / f"{answer.json()['id']}.pem"
        file.write_bytes(pem_of_key(key) + made["certificate"].encode())
        return file, made

    async def connect(self, file: Path, made: dict[str, Any]) -> Client:
        context = TakenUp(Trust(str(self.authority.file)).context(), CertificateFiles(str(file), str(file))).context
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                    client = await nats.connect(
                        self.server.url, tls=context, tls_handshake_first=True, allow_reconnect=False, connect_timeout=2,
                        inbox_prefix=made["inbox"],
                    )  # fmt: skip
                    break
        self.stopped.append(client)
        return client

    async def program(self, name: str, place: str, role: Role = Role.STATION) -> Program:
        token = self.token(name, role, place)
        file, made = await self.certify(name)
        program = Program(await self.connect(file, made), made, token)
        await program.listen()
        return program

    async def notify(self, number: int, hospital_id: str = OWN, ward_id: str | None = None, patient: str | None = None) -> int:
        event = AlarmEvent(
            f"e{number}", f"a{number}", Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, "limit.very-low", 1,
            AlarmSubject(hospital_id, ward_id, handle=number, patient_key=patient), AUTHOR.now_us, AUTHOR.now_us,
            AUTHOR.now_us, "SpO2 is low",
        )  # fmt: skip
        return await self.host.publish(subjects.alarm(hospital_id), msgspec.json.encode(event), event.event_id)

    def noted(self) -> list[dict[str, Any]]:
        """Accesses to live alarms."""
        events = [json.loads(event) for event in self.journal.seen]
        return [event for event in events if any("live/alarms" in str(entity) for entity in event["entity"])]


@asynccontextmanager
async def running_district(tmp_path: Path, engine: Engine) -> AsyncIterator[District]:
    clock, authority, now = SystemClock(), Authority(tmp_path / "pki"), datetime.now(UTC)
    authority.make_missing("sz", now)
    authority.keep(Wanted("bus", frozenset({"127.0.0.1"}), is_server=True), now)
    bus_access = CertificateAccess(authority.file_of("bus"), authority.file, (*BUS_RIGHTS, HOST))
    server = NatsServer(tmp_path / "nats", access=bus_access)
    await server.start()

    async def connected(process: str) -> Bus:
        authority.keep(wanted_by_process(process), now)
        file = str(authority.file_of(wanted_by_process(process).name))
        return await Bus.connect(server.url, BusCertificate(process, file, str(authority.file)), process)

    supervisor, api, of_hospitals, host = [await connected(process) for process in (SUPERVISOR, API, API, HOST)]
    await supervisor.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
    for hospital_id in (OWN, OTHER):
        places.create_hospital(
            engine, AUTHOR, hospital_id=hospital_id, name=hospital_id, tier=Tier.PRIMARY, bed_count=9, shards=SHARDS
        )
        places.create_ward(engine, AUTHOR, hospital_id, "icu", "icu")
    hospitals = HospitalAccess(engine, bus_access, authority, clock, 30, server.reload_wholly)
    await supervisor.answer(subjects.BUS_ACCESS, hospitals.answer)
    journal = Remembering.open(IN_MEMORY)
    journal.seen = []
    callers = SqlCallers(engine, "sz", clock, SessionRules(HOUR_US, HOUR_US))
    parts = {"engine": engine, "bus": api, "hospitals_bus": of_hospitals, "clock": clock, "callers": callers}
    app = create_app(services_of(**parts, accesses=journal), background=False)
    admin = access.create_token(engine, AUTHOR, "admin", Role.ADMINISTRATOR)
    async with app.router.lifespan_context(app), client_of(app, admin, under=PATHS) as http:
        streams = asyncio.create_task(HospitalStreams(app, app.state.backend).run())
        made = District(server, authority, tmp_path, engine, http, host, api, journal, hospitals, streams)
        await of_hospitals.flush()
        yield made
        await end(streams)
    for client in made.stopped:
        await client.close()
    for bus in (supervisor, api, of_hospitals, host):
        await bus.close()
    await server.stop()
