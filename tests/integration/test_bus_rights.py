"""Who may do what on the bus, asked of a real nats-server: each process what is its own, a stranger nothing."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from domain import subjects
from domain.bus_rights import API, AUDIT, BACKUP, BUS_RIGHTS, DOORS, OBSERVER, QUERIES, SUPERVISOR, mailroom, rights_of
from domain.errors import Unavailable
from runtime.bus import Bus
from runtime.bus_access import BusCertificate, CertificateAccess, wanted_by_process
from runtime.certificates import Authority, Wanted, read_certificate
from runtime.nats_server import NatsServer
from tests.waiting import eventually, until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.4"), pytest.mark.clause("5.4a")]

HOST = "host-1"
PROCESSES = (*BUS_RIGHTS, HOST)
BUSINESS = (subjects.READINGS_STREAM, subjects.ALARMS_STREAM, subjects.REJECTS_STREAM)
STREAMS = (*BUSINESS, subjects.AUDIT_STREAM)
LIMITS = {"max_stream_bytes": 2**30, "retention_s": 86_400, "duplicate_window_s": 600}

# Subjects of every kind that there is, and orders to the server.
SPOKEN = (
    "reading.0", "reading.lost", "control.0", "once.x", "alarm.sz.h1", "reject.sz.h1", "audit.writes", "actor.device.sz.h1.m1",
    "shard.3", "log.state", "sessions.changed", "directory.shard.3", "hosts.order",
    "heartbeat.host.host-1", "heartbeat.host.host-2", "progress.host.host-1",
    "progress.host.host-2", "host.host-1.metrics", "directory.changed", "shards.held", "storage.state", "doors.counted",
    "doors.sightings", "stream.silent", "bus.access", "hospital.sz.h001.7.ask",
    "hospital.sz.h001.7.alarms", "_R_.x", "readings.large", "doors.stamps", "enrolment.ask", "nobody.listens",
    "_INBOX.api.x.y", "_INBOX.doors.x", "_INBOX.supervisor.x",
    "_INBOX.queries.x", "_INBOX.observer.x", "_INBOX.host.host-1.x", "_INBOX.host.host-2.x", "elsewhere",
    *(f"$JS.API.STREAM.{order}.{stream}" for order in ("CREATE", "UPDATE", "DELETE", "PURGE", "INFO") for stream in STREAMS),
    *(f"$JS.API.STREAM.MSG.{order}.{stream}" for order in ("GET", "DELETE") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.CREATE.{stream}" for stream in STREAMS),
    *(f"$JS.API.{order}.READINGS" for order in ("CONSUMER.DURABLE.CREATE", "STREAM.SNAPSHOT", "STREAM.RESTORE")),
    "$JS.API.STREAM.CREATE.OTHER", "$JS.API.INFO", "$SYS.REQ.SERVER.PING", "$JS.ACK.READINGS.x.1.1.1.1.0",
)  # fmt: skip
LISTENED_TO = (
    ">", "*", "reading.*", "control.*", "once.>", "alarm.>", "reject.>", "audit.>", "log.state", "sessions.changed",
    "actor.>", "actor.*.sz.h1.>", "shard.3", "shard.*",
    "directory.shard.*", "hosts.order", "heartbeat.host.*", "progress.host.*", "host.*.metrics", "host.host-1.metrics",
    "host.host-2.metrics", "directory.changed", "shards.held", "storage.state", "doors.counted", "doors.sightings",
    "stream.silent", "enrolment.ask", "bus.access", "hospital.*.*.*.ask", "hospital.*.*.*.alarms", "hospital.>", "_R_.>",
    "readings.large", "doors.stamps", "_INBOX.>", "_INBOX.api.>", "_INBOX.doors.>", "_INBOX.supervisor.>", "_INBOX.queries.>",
    "_INBOX.observer.>", "_INBOX.host.*.x", "_INBOX.host.host-1.>", "_INBOX.host.host-2.>", "$JS.API.>",
    "$JS.EVENT.>", "$SYS.>",
)  # fmt: skip

# What each may do of that: written by hand, so that the table cannot grow by accident.
_TAKEN_IN = {"reading.0", "reading.lost", "control.0", "once.x", "reject.sz.h1", "stream.silent"}
_READS = {stream: {f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}"} for stream in STREAMS}
_FOLLOWS = {stream: {f"$JS.API.CONSUMER.CREATE.{stream}"} for stream in STREAMS}
_ALL_READ = set().union(*(_READS[stream] for stream in BUSINESS))
MAY_SAY = {
    SUPERVISOR: {
        "reading.lost", "shards.held", "storage.state", "nobody.listens", "stream.silent", "_INBOX.api.x.y",
        "_INBOX.host.host-1.x", "_INBOX.host.host-2.x",
        *(f"$JS.API.STREAM.{order}.{stream}" for order in ("CREATE", "UPDATE", "PURGE") for stream in STREAMS),
    } | _ALL_READ | _READS["AUDIT"],
    API: _TAKEN_IN | _ALL_READ | _FOLLOWS["READINGS"] | _FOLLOWS["ALARMS"]
    | {"actor.device.sz.h1.m1", "shard.3", "hosts.order", "directory.changed", "readings.large", "doors.stamps", "audit.writes"}
    | {"sessions.changed", "_INBOX.doors.x", "bus.access", "hospital.sz.h001.7.alarms", "_R_.x"},
    AUDIT: _READS["AUDIT"] | _FOLLOWS["AUDIT"] | {"log.state", "stream.silent", "$JS.API.STREAM.PURGE.AUDIT"},
    DOORS: _TAKEN_IN | _READS["READINGS"] | {"shard.3", "doors.counted", "doors.sightings", "enrolment.ask", "_INBOX.api.x.y"},
    QUERIES: {"shard.3", "_INBOX.api.x.y"} | _READS["READINGS"],
    BACKUP: _ALL_READ.union(_READS["AUDIT"], *_FOLLOWS.values()),
    OBSERVER: _ALL_READ.union(*(_FOLLOWS[stream] for stream in BUSINESS)) | {"host.host-1.metrics"},
    HOST: _READS["READINGS"] | _FOLLOWS["READINGS"] | {
        "reading.0", "reading.lost", "control.0", "alarm.sz.h1", "reject.sz.h1", "actor.device.sz.h1.m1", "directory.shard.3",
        "heartbeat.host.host-1", "progress.host.host-1", "stream.silent", "_INBOX.api.x.y", "_INBOX.doors.x",
        "_INBOX.queries.x", "_INBOX.observer.x", "_INBOX.host.host-1.x", "_INBOX.host.host-2.x",
    },
}  # fmt: skip
MAY_HEAR = {
    SUPERVISOR: {
        "directory.shard.*",
        "hosts.order",
        "heartbeat.host.*",
        "stream.silent",
        "bus.access",
        "_INBOX.supervisor.>",
    },
    API: {
        "directory.changed",
        "storage.state",
        "heartbeat.host.*",
        "shards.held",
        "doors.counted",
        "doors.sightings",
        "log.state",
        "sessions.changed",
        "enrolment.ask",
        "hospital.*.*.*.ask",
        "_INBOX.api.>",
    },
    AUDIT: {"_INBOX.audit.>"},
    DOORS: {"directory.changed", "progress.host.*", "storage.state", "doors.stamps", "_INBOX.doors.>"},
    QUERIES: {"readings.large", "_INBOX.queries.>"},
    BACKUP: {"_INBOX.backup.>"},
    OBSERVER: {"heartbeat.host.*", "_INBOX.observer.>"},
    HOST: {"actor.>", "actor.*.sz.h1.>", "shard.3", "shard.*", "host.host-1.metrics", "_INBOX.host.host-1.>"},
}


@dataclass
class Guarded:
    """A server that knows its clients by certificate, and the authority that made those."""

    server: NatsServer
    authority: Authority
    access: CertificateAccess
    open: list[Bus] = field(default_factory=list)

    def key(self, process: str, now: datetime | None = None) -> BusCertificate:
        wanted = wanted_by_process(process)
        self.authority.keep(wanted, now or datetime.now(UTC))
        return BusCertificate(process, str(self.authority.file_of(wanted.name)), str(self.authority.file))

    async def bus(self, process: str) -> Bus:
        bus = await Bus.connect(self.server.url, self.key(process), process)
        self.open.append(bus)
        return bus


@pytest.fixture
async def guarded(tmp_path):
    authority, now = Authority(tmp_path / "pki"), datetime.now(UTC)
    authority.make_missing("sz", now)
    authority.keep(Wanted("bus", frozenset({"127.0.0.1"}), is_server=True), now)
    access = CertificateAccess(authority.file_of("bus"), authority.file, PROCESSES)
    stage = Guarded(NatsServer(tmp_path / "nats", access=access), authority, access)
    await stage.server.start()
    yield stage
    for bus in stage.open:
        await bus.close()
    await stage.server.stop()


async def refused_of(guarded: Guarded, process: str, words: str, say) -> set[str]:
    """What the server refuses of all that `say` does on a connection of `process`."""
    refusals: list[str] = []

    async def hear(error: Exception) -> None:
        refusals.append(str(error))

    key = guarded.key(process)
    client = await nats.connect(
        guarded.server.url, tls=key.taken_up().context, tls_handshake_first=True, error_cb=hear, allow_reconnect=False
    )
    expected = await say(client)
    await client.flush()
    await until(lambda: len(refusals) >= expected)
    await client.close()
    return {refusal.split('"')[1] for refusal in refusals if words in refusal}


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_process_says_what_is_its_own_and_nothing_else(guarded, process):
    forbidden = set(SPOKEN) - MAY_SAY[process]

    async def say(client) -> int:
        for subject in SPOKEN:
            await client.publish(subject, b"{}")
        return len(forbidden)

    refused = await refused_of(guarded, process, "permissions violation for publish", say)
    assert refused == {subject.lower() for subject in forbidden}  # nats-py tells them in small letters


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_process_hears_what_is_its_own_and_nothing_else(guarded, process):
    forbidden = set(LISTENED_TO) - MAY_HEAR[process]

    async def listen(client) -> int:
        for subject in LISTENED_TO:
            await client.subscribe(subject)
        return len(forbidden)

    refused = await refused_of(guarded, process, "permissions violation for subscription", listen)
    assert refused == {subject.lower() for subject in forbidden}


def test_every_process_of_the_table_is_asked_and_a_host_speaks_in_its_own_name():
    assert set(MAY_SAY) == set(MAY_HEAR) == set(PROCESSES)
    assert "heartbeat.host.host-7" in rights_of("host-7").says
    assert "heartbeat.host.host-1" not in rights_of("host-7").says


@pytest.mark.parametrize("name", ["audit-7", "host-", "host-0", "host-1.>", "host-*", "", "api.vitalgrid"])
def test_who_is_not_of_the_table_has_no_rights(name):
    for ask in (rights_of, mailroom):
        with pytest.raises(ValueError, match="has no row"):
            ask(name)


async def test_each_can_do_its_work(guarded):
    supervisor, api, doors, host, observer = [
        await guarded.bus(name) for name in (SUPERVISOR, API, DOORS, HOST, OBSERVER)
    ]  # fmt: skip
    for _ in range(2):  # once to make, once to change
        await supervisor.ensure_streams(**LIMITS)
    heard: dict[str, list[bytes]] = {"host": [], "api": [], "observer": []}
    followers = [
        await host.follow("READINGS", ["reading.0"], 1, lambda message: heard["host"].append(message.payload)),
        await api.follow("ALARMS", ["alarm.>"], 1, lambda message: heard["api"].append(message.payload)),
        await observer.follow("READINGS", ["reading.*"], 1, lambda message: heard["observer"].append(message.payload)),
    ]
    sequence = await doors.publish("reading.0", b"frame", "one")
    await host.publish("alarm.sz.h1", b"raised", "two")
    await until(lambda: heard == {"host": [b"frame"], "api": [b"raised"], "observer": [b"frame"]})
    assert (await doors.get_message("READINGS", sequence)).payload == b"frame"
    assert await doors.last_sequence("READINGS", "reading.0") == sequence

    async def here(payload: bytes, subject: str) -> bytes:
        return subject.encode() + payload

    await host.answer("shard.0", here)
    await supervisor.answer("directory.shard.*", here)
    await supervisor.answer("hosts.order", here)
    await host.flush()
    await supervisor.flush()
    assert await doors.ask("shard.0", b"?") == await api.ask("shard.0", b"?") == b"shard.0?"
    assert await host.ask("directory.shard.0", b"?") == b"directory.shard.0?"
    assert await api.ask("hosts.order", b"?") == b"hosts.order?"
    assert await supervisor.is_answering(2)
    await supervisor.purge("READINGS", sequence + 1)
    for follower in followers:
        await follower.stop()


async def test_what_is_refused_is_logged_and_an_asker_is_told_in_time(guarded, caplog):
    doors = await guarded.bus(DOORS)
    with pytest.raises(Unavailable):
        await doors.ask("hosts.order", b"remove host-1", 0.3)
    assert any("hosts.order" in record.message for record in caplog.records if record.levelname == "ERROR")


async def deliver_elsewhere(host: Bus, subject: str) -> None:
    """As a host that was taken over: what it may put into a stream goes where it may not speak."""
    settings = ({"ack_policy": AckPolicy.EXPLICIT}, {"ack_policy": AckPolicy.NONE, "idle_heartbeat": 0.1, "flow_control": True})
    for more in settings:
        wanted = ConsumerConfig(deliver_subject=subject, deliver_policy=DeliverPolicy.ALL, inactive_threshold=5, **more)
        await host._jetstream.add_consumer("READINGS", wanted)


@pytest.mark.parametrize(
    ("process", "listens", "target", "speaker"),
    [
        (DOORS, "storage.state", "storage.state", SUPERVISOR), (API, "heartbeat.host.*", "heartbeat.host.host-1", HOST),
        (SUPERVISOR, "hosts.order", "hosts.order", API), (SUPERVISOR, "directory.shard.*", "directory.shard.3", HOST),
    ],
)  # fmt: skip
async def test_what_a_stream_keeps_is_nobodys_word_wherever_it_is_delivered(guarded, caplog, process, listens, target, speaker):
    host, listener = await guarded.bus("host-1"), await guarded.bus(process)
    await (listener if process == SUPERVISOR else await guarded.bus(SUPERVISOR)).ensure_streams(**LIMITS)
    heard: list[tuple[bytes, str]] = []
    came: list[tuple[str, bool]] = []

    async def answered(payload: bytes, subject: str) -> bytes:
        heard.append((payload, subject))
        return b"done"

    async def see(message) -> None:
        came.append((message.subject, "Status" in (message.headers or {})))

    if process == SUPERVISOR:
        await listener.answer(listens, answered)
    else:
        await listener.core_subscribe(listens, lambda payload, subject: heard.append((payload, subject)))
    await listener._client.subscribe(target, cb=see)  # exactly: else the server does not deliver
    await listener.flush()
    await host.publish("reading.0", b"forged", "m1")
    await deliver_elsewhere(host, target)
    # the server does deliver it: under the subject under which it is kept, and what it says of the stream itself under ours
    await until(lambda: came.count(("reading.0", False)) >= 2 and (target, True) in came)
    asker = host if speaker == HOST else await guarded.bus(speaker)
    if process == SUPERVISOR:
        assert await asker.ask(target, b"said") == b"done"
    else:
        await asker.core_publish(target, b"said")
    await until(lambda: (b"said", target) in heard)
    assert heard == [(b"said", target)]
    assert [record.kept_as for record in caplog.records if "is not heeded" in record.message] == ["reading.0"]


async def is_let_in(url: str, context: ssl.SSLContext | None, **proof: str) -> bool:
    """Whether the server answers a ping, spoken to without any library: those leave refused sockets open."""
    host, _, port = url.removeprefix("tls://").partition(":")
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(3):
            writer.write(b"CONNECT " + msgspec.json.encode({"verbose": False, "protocol": 1, **proof}) + b"\r\nPING\r\n")
            while line := await reader.readline():
                if line.startswith((b"PONG", b"-ERR")):
                    return line.startswith(b"PONG")
        return False
    except (OSError, TimeoutError):
        return False
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("stranger", [
    "without a certificate", "with a token", "of another authority", "whose certificate has ended", "with a server's",
    "unknown by name", "in plain",
])  # fmt: skip
async def test_a_stranger_is_refused(guarded, tmp_path, stranger):
    trust = guarded.key(API).taken_up().context
    assert await is_let_in(guarded.server.url, trust)
    bare, proof, url = ssl.create_default_context(cafile=str(guarded.authority.file)), {}, guarded.server.url
    match stranger:
        case "with a token":
            proof = {"auth_token": "anything", "user": "api.vitalgrid", "pass": "x"}
        case "of another authority":
            other = Authority(tmp_path / "other")
            other.make_missing("sz", datetime.now(UTC))
            other.keep(wanted_by_process(API), datetime.now(UTC))
            bare.load_cert_chain(other.file_of("bus-api"))
        case "whose certificate has ended":
            old = Authority(tmp_path / "pki")
            old.file_of("bus-api").unlink()
            old.keep(wanted_by_process(API), datetime.now(UTC) - timedelta(days=91))
            bare.load_cert_chain(old.file_of("bus-api"))
        case "with a server's":
            guarded.authority.keep(Wanted("api", frozenset({"api.vitalgrid"}), is_server=True), datetime.now(UTC))
            bare.load_cert_chain(guarded.authority.file_of("api"))
        case "unknown by name":
            bare.load_cert_chain(guarded.key("host-9").file)
        case "in plain":
            bare = None
    assert not await is_let_in(url, bare, **proof)


async def test_a_host_is_let_in_while_readings_flow_and_nothing_is_lost(guarded):
    supervisor, doors, host = await guarded.bus(SUPERVISOR), await guarded.bus(DOORS), await guarded.bus(HOST)
    await supervisor.ensure_streams(**LIMITS)
    got: list[bytes] = []
    follower = await host.follow("READINGS", ["reading.0"], 1, lambda message: got.append(message.payload))
    sent = 0
    for number in range(2, 6):
        for _ in range(100):
            await doors.publish("reading.0", b"%d" % sent, f"m{sent}")
            sent += 1
        assert guarded.access.let_in(f"host-{number}")
        await guarded.server.reload()
        late = await guarded.bus(f"host-{number}")
        await late.core_publish(f"heartbeat.host.host-{number}", b"alive")
    await until(lambda: len(got) == sent)
    assert got == [b"%d" % number for number in range(sent)]
    assert supervisor.is_connected
    await follower.stop()


async def test_who_was_let_in_is_known_once_a_reload_has_returned_whoever_reloads_beside_it(guarded):
    async def come(number: int) -> None:
        await asyncio.sleep(number / 1000)  # while the server reads for those before
        assert guarded.access.let_in(f"host-{number}")
        await guarded.server.reload()
        await guarded.bus(f"host-{number}")

    await asyncio.gather(*map(come, range(2, 14)))


async def test_a_reload_while_the_server_starts_does_not_end_it(guarded):
    await guarded.server.stop()
    starting = asyncio.create_task(guarded.server.start())
    await until(guarded.server.is_running)
    await guarded.server.reload()
    assert await starting == guarded.server.url
    assert guarded.server.is_running()


@pytest.mark.clause("9.1a")
async def test_certificates_are_renewed_without_a_restart(guarded):
    supervisor = await guarded.bus(SUPERVISOR)
    await supervisor.ensure_streams(**LIMITS)
    before = read_certificate(guarded.authority.file_of("bus")).serial_number
    later = datetime.now(UTC) + timedelta(days=61)  # what is renewed then has not begun for those of today: so once more
    for now in (later, datetime.now(UTC)):
        guarded.authority.keep(Wanted("bus", frozenset({"127.0.0.1"}), is_server=True), now)
        guarded.key(SUPERVISOR, now)
    renewed = read_certificate(guarded.authority.file_of("bus")).serial_number
    assert renewed != before
    await guarded.server.reload()

    async def serves_renewed() -> bool:
        host, _, port = guarded.server.url.removeprefix("tls://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=guarded.key(API).taken_up().context)
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return int(certificate["serialNumber"], 16) == renewed

    await eventually(serves_renewed)
    assert supervisor.is_connected
    await guarded.server.stop()
    await guarded.server.start()
    await until(lambda: supervisor.is_connected)
    assert (await supervisor.stream_state("READINGS")).messages == 0
