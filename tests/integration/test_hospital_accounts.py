"""Hospitals on the bus, asked of a real nats-server: each has an account, and nothing of another's is heard or said there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.client import Client
from nats.errors import Error as NatsError

from domain import subjects
from domain.bus_rights import API, BUS_RIGHTS, SUPERVISOR
from domain.errors import InvalidInput, Unavailable
from domain.hospital_systems import ASKED, AlarmsAsked, HospitalSystem, asked_by, decode_asked
from runtime import bus_access, nats_server
from runtime.bus import Bus
from runtime.bus_access import BusCertificate, CertificateAccess, TokenAccess, name_of_system, wanted_by_process
from runtime.certificates import Authority, Wanted, pem_of_key, read_certificate
from runtime.clock import SystemClock
from runtime.device_authority import Signer, read_request
from runtime.nats_server import NatsServer
from runtime.tasks import end
from runtime.tls import CertificateFiles, TakenUp, Trust
from tests.integration.test_bus_rights import LIMITS, LISTENED_TO, SPOKEN, deliver_elsewhere
from tests.waiting import eventually, until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.4"), pytest.mark.clause("5.4a")]

WHO = {1: "sz.h001", 2: "sz.h001", 3: "sz.h002"}
DAY_US = 86_400_000_000
ABROAD = (
    *(f"hospital.{hospital_id}.{number}.{what}" for number, hospital_id in WHO.items() for what in ("ask", "alarms")),
    *(f"hospital.{hospital_id}.9.ask" for hospital_id in sorted(set(WHO.values()))),
    "_INBOX.1.x", "_INBOX.2.x", "_INBOX.3.x", "_R_.x", "_R_.x.y", "bus.access",
    "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.ALARMS", "$JS.API.DIRECT.GET.ALARMS", "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SYS.REQ.USER.INFO", "$SYS.ACCOUNT.VITALGRID.CONNECT",
)  # fmt: skip
EAVESDROPPED = (
    ">", "hospital.>", "hospital.*.*.*.alarms", "hospital.sz.h001.>", "hospital.sz.h001.*.alarms", "hospital.sz.h002.>",
    "hospital.sz.h002.*.alarms", "_INBOX.*.>", "_R_.>", "$SYS.>", "$SYS.ACCOUNT.>", "$JS.API.>",
)  # fmt: skip


@dataclass
class Region:
    """A server, the authority of its certificates, and programs of hospitals with keys of their own."""

    server: NatsServer
    access: CertificateAccess
    authority: Authority
    folder: Path
    systems: dict[int, HospitalSystem] = field(default_factory=dict)
    open: list[Bus | Client] = field(default_factory=list)
    said: dict[int, list[str]] = field(default_factory=dict)  # what the server refused, by program

    def certify(self, number: int, hospital_id: str) -> HospitalSystem:
        key = ec.generate_private_key(ec.SECP256R1())
        asked = read_request(
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api.vitalgrid")]))  # nobody believes that
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("api.vitalgrid")]), critical=False)
            .sign(key, SHA256())
            .public_bytes(Encoding.PEM)
        )
        system = HospitalSystem(hospital_id, number, asked.key_digest)
        signer = Signer(read_certificate(self.authority.file), self.authority.key())
        name = name_of_system(system.key_digest)
        made = signer.issue(asked, hospital_id, name, SystemClock().now_us(), DAY_US, host_name=name)
        (self.folder / f"{number}.pem").write_bytes(pem_of_key(key) + made.pem.encode())
        self.systems[number] = system
        return system

    async def admit(self, *numbers: int) -> None:
        if self.access.admit(frozenset(self.systems[number] for number in numbers)):
            await self.server.reload_wholly()

    async def bus(self, process: str) -> Bus:
        wanted = wanted_by_process(process)
        self.authority.keep(wanted, datetime.now(UTC))
        key = BusCertificate(process, str(self.authority.file_of(wanted.name)), str(self.authority.file))
        bus = await Bus.connect(self.server.url, key, process)
        self.open.append(bus)
        return bus

    async def program(self, number: int, *, reconnects: bool = False) -> Client:
        """A connection as a hospital's own client makes it. Raises NatsError, TimeoutError or OSError when it is not let in."""
        file, said = str(self.folder / f"{number}.pem"), self.said.setdefault(number, [])
        context = TakenUp(Trust(str(self.authority.file)).context(), CertificateFiles(file, file)).context

        async def hear(error: Exception) -> None:
            said.append(str(error))

        client = await nats.connect(
            self.server.url, tls=context, tls_handshake_first=True, error_cb=hear, allow_reconnect=reconnects,
            inbox_prefix=f"_INBOX.{number}", connect_timeout=3,
        )  # fmt: skip
        self.open.append(client)
        return client


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    authority, now = Authority(tmp_path / "pki"), datetime.now(UTC)
    authority.make_missing("sz", now)
    authority.keep(Wanted("bus", frozenset({"127.0.0.1"}), is_server=True), now)
    access = CertificateAccess(authority.file_of("bus"), authority.file, BUS_RIGHTS)
    made = Region(NatsServer(tmp_path / "nats", access=access), access, authority, tmp_path)
    for number, hospital_id in WHO.items():
        made.certify(number, hospital_id)
    await made.admit(*WHO)
    await made.server.start()
    yield made
    for one in made.open:
        await one.close()
    await made.server.stop()


@pytest.mark.parametrize("number", WHO)
async def test_a_program_says_and_hears_what_is_its_own_and_nothing_else(region: Region, number: int) -> None:
    client, system = await region.program(number), region.systems[number]
    words = (*SPOKEN, *ABROAD)
    for subject in words:
        await client.publish(subject, b"{}")
    heard = (*LISTENED_TO, *EAVESDROPPED, *ABROAD)
    for subject in heard:
        await client.subscribe(subject)
    forbidden = {f"publish to {word}" for word in words} | {f"subscription to {word}" for word in heard}
    forbidden -= {f"publish to {system.asks}", f"subscription to {system.hears}", f"subscription to _INBOX.{number}.x"}

    def refused() -> set[str]:
        said = [word.replace("permissions violation for ", "").replace('"', "") for word in region.said[number]]
        return {word.removeprefix("nats: ").strip("'") for word in said}

    await until(lambda: len(refused()) >= len({word.lower() for word in forbidden}))
    assert refused() == {word.lower() for word in forbidden}


async def test_each_hears_alarms_of_its_own_alone(region: Region) -> None:
    api = await region.bus(API)
    heard: dict[int, list[str]] = {number: [] for number in WHO}
    for number, system in region.systems.items():
        client = await region.program(number)

        async def take(message, number=number) -> None:
            heard[number].append(f"{message.subject} {message.data.decode()}")

        await client.subscribe(system.hears, cb=take)
        await client.flush()
    for number, system in region.systems.items():
        await api.core_publish(system.hears, b"for %d" % number)
    expected = {number: [f"{system.hears} for {number}"] for number, system in region.systems.items()}
    await until(lambda: heard == expected)


async def test_what_a_stream_keeps_is_told_from_an_alarm_by_its_subject(region: Region) -> None:
    """As the how-to says: a host that was taken over can have it delivered to a hospital, not under the hospital's subject."""
    assert region.access.let_in("host-1")
    await region.server.reload_wholly()
    supervisor, host, api = await region.bus(SUPERVISOR), await region.bus("host-1"), await region.bus(API)
    await supervisor.ensure_streams(**LIMITS)
    client, hears = await region.program(1), region.systems[1].hears
    got: list[tuple[str, bytes]] = []

    async def take(message) -> None:
        got.append((message.subject, message.data))

    await client.subscribe(hears, cb=take)
    await client.flush()
    await host.publish("reading.0", b"forged", "m1")
    await deliver_elsewhere(host, hears)
    await api.core_publish(hears, b"an alarm")
    await until(lambda: {(hears, b"an alarm"), ("reading.0", b"forged")} <= set(got))
    assert (hears, b"forged") not in got


async def test_who_asks_is_known_and_answered_where_only_they_hear(region: Region) -> None:
    api = await region.bus(API)

    async def who(payload: bytes, subject: str) -> bytes:
        hospital_id, number = asked_by(subject)
        return f"{hospital_id} {number} {decode_asked(payload).token}".encode()

    await api.answer(ASKED, who)
    await api.flush()
    for number, system in region.systems.items():
        client = await region.program(number)
        answer = await client.request(system.asks, b'{"token": "t"}', timeout=3)
        assert answer.data == f"{WHO[number]} {number} t".encode()
        await client.publish(system.asks, b"no answer is wanted")  # and none breaks anything
        refused = await client.request(system.asks, b"rubbish", timeout=3)
        assert refused.headers["Vitalgrid-Error"] == InvalidInput.code


@pytest.mark.parametrize("number", [1, 3])
async def test_accounts_hold_even_where_permissions_would_not(region: Region, monkeypatch, number: int) -> None:
    """What is declared crosses the border, and nothing else: the second of two walls, without the first."""

    def unbounded(system: HospitalSystem) -> dict[str, str]:
        return {"user": name_of_system(system.key_digest)}

    supervisor, api = await region.bus(SUPERVISOR), await region.bus(API)
    await supervisor.ensure_streams(**LIMITS)
    with monkeypatch.context() as patched:
        patched.setattr(bus_access, "_system_config", unbounded)
        await region.server.reload_wholly()
        client, other = await region.program(number), await region.program(4 - number)
        received: list[str] = []

        async def take(message) -> None:
            received.append(message.subject)

        async def bounded() -> bool:
            await client.publish("probe.of.mine", b"")
            await client.flush()
            return "probe.of.mine" in received

        await client.subscribe(">", cb=take)
        await eventually(bounded)
        await other.publish("probe.of.another", b"")
        await other.publish(region.systems[number].hears, b"forged by another hospital")
        await other.publish(f"_INBOX.{number}.x", b"forged")
        await other.flush()
        for subject in ("alarm.sz.h001", "reject.sz.h001", "reading.0"):
            await api.core_publish(subject, b"x")
        for system in region.systems.values():
            await api.core_publish(system.hears, b"x")
        await api.flush()
        mine = {one.hears for one in region.systems.values() if one.hospital_id == WHO[number]}
        await until(lambda: set(received) >= mine)
        assert set(received) == {"probe.of.mine", *mine}

        async def kept() -> bool:  # what the API itself said: the stream takes it up after the bus does
            return (await supervisor.stream_state("READINGS")).messages == 1

        await eventually(kept)
        before = {name: await supervisor.stream_state(name) for name in ("READINGS", "ALARMS")}
        for subject in (*SPOKEN, *ABROAD):
            await client.publish(subject, b"{}", reply=f"_INBOX.{number}.r")
        await client.flush()
        assert {name: await supervisor.stream_state(name) for name in before} == before


async def test_who_is_revoked_is_cut_off_and_others_do_not_notice(region: Region, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = await region.bus(SUPERVISOR)
    await supervisor.ensure_streams(**LIMITS)
    api = await region.bus(API)

    async def who(_payload: bytes, subject: str) -> bytes:
        return subject.encode()

    await api.answer(ASKED, who)
    first, second, third = [await region.program(number, reconnects=True) for number in WHO]
    await region.admit(2, 3)
    await until(lambda: not first.is_connected)
    assert second.is_connected
    with pytest.raises((NatsError, TimeoutError, OSError)):
        await region.program(1)
    await region.admit(2)  # with the last program of a hospital its account goes
    await until(lambda: not third.is_connected)
    assert (second.is_connected, supervisor.is_connected) == (True, True)
    await region.admit(2, 3)
    await supervisor.stream_state("READINGS")
    region.certify(5, "sz.h003")
    await region.admit(2, 3, 5)  # a hospital more
    assert second.is_connected
    for number in (2, 3, 5):
        client, system, heard = await region.program(number), region.systems[number], []

        async def take(message, heard=heard) -> None:
            heard.append(message.data)

        await client.subscribe(system.hears, cb=take)
        assert (await client.request(system.asks, b"?", timeout=3)).data == system.asks.encode()
        await api.core_publish(system.hears, b"an alarm")
        await until(lambda heard=heard: heard == [b"an alarm"])
    assert [record for record in caplog.records if "connection is lost" in record.message] == []


async def test_what_a_hospital_may_take_of_the_server_is_bounded(region: Region) -> None:
    clients = [await region.program(1) for _ in range(8)]
    with pytest.raises((NatsError, TimeoutError, OSError)):
        await region.program(2)
    await region.program(3)  # another hospital's are its own
    for client in clients[:2]:
        for _ in range(8):
            await client.subscribe(region.systems[1].hears)
    await clients[0].flush()
    assert region.said[1] == []  # each connection has its own
    await clients[0].subscribe(region.systems[1].hears)
    await until(lambda: clients[0].is_closed, 5)  # the library gives up when the server refuses
    with pytest.raises(NatsError):
        await clients[1].request(region.systems[1].asks, b"x" * 5_000, timeout=1)


async def test_who_says_what_the_server_says_of_a_reload_makes_none_of_it(region: Region, monkeypatch) -> None:
    """What cannot be parsed stands in the server's log, which is read for whether it took up its configuration."""
    words = b"Reloaded server configuration\r\n"
    monkeypatch.setattr(nats_server, "_RELOAD_DEADLINE_S", 1.0)

    async def say() -> None:
        client = await region.program(1)
        assert client._transport is not None
        client._transport.write(words)
        await client._transport.drain()
        await until(lambda: not client.is_connected)

    async def say_again_and_again() -> None:
        while True:
            await say()

    saying = asyncio.create_task(say_again_and_again())
    log = region.server.directory / "nats-server.log"
    await until(lambda: words.strip() in log.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(region.access, "config", lambda: "accounts {")
        with pytest.raises(Unavailable, match="does not take up"):
            await region.server.reload()
    assert not saying.done()
    await end(saying)
    await region.server.reload()


async def test_who_does_what_they_may_not_fills_no_disk_and_is_put_out_all_the_same(region: Region, monkeypatch) -> None:
    await region.server.stop()
    monkeypatch.setattr(nats_server, "_LOG_BYTES", 4_000_000)
    await region.server.start()
    client, folder = await region.program(1), region.server.directory

    async def flood() -> None:
        while True:
            for _ in range(200):
                await client.publish("alarm.sz.h001", b"{}")
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    await until(lambda: len(list(folder.glob("nats-server.log.*"))) >= 2, 20)
    await region.admit(2, 3)
    await until(lambda: not client.is_connected)
    await end(flooding)
    assert sum(path.stat().st_size for path in folder.glob("nats-server.log*")) < 4 * 4_000_000


@pytest.mark.parametrize("subject", ["hospital.sz.h001.1", "hospital.sz.h001.x.ask", "hospital.sz.h001.1.2.ask"])
def test_who_is_nobody_asks_nothing(subject: str) -> None:
    with pytest.raises(InvalidInput):
        asked_by(subject)


def test_what_cannot_be_read_is_told_without_a_token_of_it() -> None:
    assert decode_asked(b'{"token": "t", "after": 7}') == AlarmsAsked("t", 7)
    for bad in (b"", b'{"token": 7}', b'{"token": "secret", "x": 1}', b"\xff", b'{"token": "secret", "after": "x"}'):
        with pytest.raises(InvalidInput) as caught:
            decode_asked(bad)
        assert "secret" not in str(caught.value)


def test_subjects_of_hospitals_are_in_no_stream() -> None:
    stored = (*subjects.READINGS_SUBJECTS, *subjects.ALARMS_SUBJECTS, *subjects.REJECTS_SUBJECTS, *subjects.AUDIT_SUBJECTS)
    assert not any(subject.startswith(("hospital", "*", ">")) for subject in stored)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2"])
async def test_a_server_that_others_reach_is_found_from_here(tmp_path: Path, host: str) -> None:
    server = NatsServer(tmp_path / "nats", access=TokenAccess("t0ken"), host=host)
    url = await server.start()
    try:
        assert url.rpartition(":")[0] == f"nats://{'127.0.0.1' if host == '0.0.0.0' else host}"
        bus = await Bus.connect(url, "t0ken", "test")
        assert await bus.is_answering(2)
        await bus.close()
    finally:
        await server.stop()
