"""Who of the hospitals is let in on the bus, as the business database says it: what fails is tried again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine

from cluster.hospital_access import HospitalAccess
from domain.errors import Conflict, NotFound, Unavailable
from domain.fleet_manifest import Tier
from domain.principals import Place, Role
from runtime.bus_access import CertificateAccess, name_of_system
from runtime.certificates import Authority
from runtime.clock import SystemClock
from runtime.device_authority import read_request
from runtime.sql import access, bus_certificates, places
from runtime.sql.bus_tables import bus_certificates as table
from runtime.sql.engine import writing
from runtime.sql.records import Author
from runtime.sql.tables import hospitals as hospitals_table
from runtime.sql.tables import tokens
from tests.sql_fixtures import SHARDS

pytestmark = [pytest.mark.clause("9.4")]

AUTHOR = Author("ada", None, 1_700_000_000_000_000)
OWN = "sz.h001"


class Server:
    """Reads what it is told of who is let in, unless it is `away`."""

    def __init__(self, folder: Path) -> None:
        self.access = CertificateAccess(folder / "bus.pem", folder / "ca.pem", ())
        self.is_away = False
        self.looks = 0
        self.read = ""

    async def look(self) -> None:
        if self.is_away:
            raise Unavailable("nats-server does not take up its configuration")
        self.looks += 1
        self.read = self.access.config()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.fixture
def hospitals(engine: Engine, server: Server, tmp_path: Path) -> HospitalAccess:
    authority = Authority(tmp_path / "pki")
    authority.make_missing("sz", datetime.now(UTC))
    places.create_hospital(engine, AUTHOR, hospital_id=OWN, name=OWN, tier=Tier.PRIMARY, bed_count=9, shards=SHARDS)
    return HospitalAccess(engine, server.access, authority, SystemClock(), 30, server.look)


def ask(engine: Engine, name: str) -> tuple[int, str]:
    """A certificate for token `name`, which is made here: its number, and the digest of its key."""
    access.create_token(engine, AUTHOR, name, Role.STATION, Place.parse(OWN))
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    pem = request.public_bytes(Encoding.PEM)
    digest = read_request(pem).key_digest
    return bus_certificates.ask_certificate(engine, AUTHOR, name, pem.decode(), digest), digest


async def test_a_revocation_that_the_server_did_not_take_up_is_told_again(
    engine: Engine, hospitals: HospitalAccess, server: Server
) -> None:
    number, digest = ask(engine, "his-1")
    await hospitals.look()
    assert name_of_system(digest) in server.read
    bus_certificates.revoke_certificate(engine, AUTHOR, "his-1", number)
    server.is_away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await hospitals.look()
    server.is_away = False
    for _ in range(2):
        await hospitals.look()
    assert (name_of_system(digest) in server.read, server.looks) == (False, 2)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("hospital_id", "*.*"),
        ("hospital_id", "sz.h001.>"),
        ("hospital_id", "sz.h002"),
        ("key_digest", "x" * 64),
        ("place", "sz"),
    ],
)
async def test_a_row_that_we_cannot_have_written_lets_nobody_in_and_is_said_once(
    engine: Engine, hospitals: HospitalAccess, server: Server, caplog: pytest.LogCaptureFixture, column: str, value: str
) -> None:
    (forged, _), (_, digest) = ask(engine, "his-1"), ask(engine, "his-2")
    await hospitals.look()
    if column == "hospital_id":
        forge_hospital(engine, value)
    with writing(engine) as connection:
        if column == "place":
            connection.execute(tokens.update().where(tokens.c.name == "his-1").values(place=value))
        else:
            connection.execute(table.update().where(table.c.id == forged).values({column: value}))
    for _ in range(2):
        await hospitals.look()
    assert server.read.count(".hospitals.vitalgrid") == 1
    assert name_of_system(digest) in server.read
    said = [record for record in caplog.records if "none that we wrote" in record.message]
    assert [record.certificate for record in said] == [forged]


def forge_hospital(engine: Engine, hospital_id: str) -> None:
    with writing(engine) as connection:
        (own,) = connection.execute(hospitals_table.select().where(hospitals_table.c.id == OWN)).mappings().all()
        connection.execute(hospitals_table.insert().values({**own, "id": hospital_id}))


async def test_a_request_of_another_key_is_not_signed_is_said_once_and_keeps_nobody_else(
    engine: Engine, hospitals: HospitalAccess, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    (forged, _), (unread, _), (_, digest) = [ask(engine, name) for name in ("his-1", "his-2", "his-3")]
    with writing(engine) as connection:
        connection.execute(table.update().where(table.c.id == forged).values(key_digest="0" * 64))
        connection.execute(table.update().where(table.c.id == unread).values(request="rubbish"))
    for _ in range(2):
        await hospitals.look()
    assert (server.read.count(".hospitals.vitalgrid"), name_of_system(digest) in server.read) == (1, True)
    for name in ("his-1", "his-2"):
        assert bus_certificates.certificates_of(engine, name)[0]["certificate"] is None
    said = [record for record in caplog.records if "cannot be signed" in record.message]
    assert [record.certificate for record in said] == [forged, unread]
    assert "is not of the key" in said[0].message
    assert "no certification request" in said[1].message


def test_who_asks_again_for_the_same_key_is_told_the_same_number_and_nothing_more_is_noted(engine: Engine, hospitals) -> None:
    number, digest = ask(engine, "his-1")
    noted = access.list_writes(engine, limit=99).rows
    assert bus_certificates.ask_certificate(engine, AUTHOR, "his-1", "another request", digest) == number
    assert access.list_writes(engine, limit=99).rows == noted
    assert [row["id"] for row in bus_certificates.certificates_of(engine, "his-1")] == [number]
    access.create_token(engine, AUTHOR, "his-2", Role.STATION, Place.parse(OWN))
    with pytest.raises(Conflict, match="make a new one"):
        bus_certificates.ask_certificate(engine, AUTHOR, "his-2", "a request", digest)
    bus_certificates.revoke_certificate(engine, AUTHOR, "his-1", number)
    with pytest.raises(Conflict, match="make a new one"):
        bus_certificates.ask_certificate(engine, AUTHOR, "his-1", "a request", digest)


def test_a_token_that_never_was_has_no_list_of_certificates(engine: Engine, hospitals) -> None:
    access.create_token(engine, AUTHOR, "his-1", Role.STATION, Place.parse(OWN))
    access.revoke_token(engine, AUTHOR, "his-1")
    assert bus_certificates.certificates_of(engine, "his-1") == []
    with pytest.raises(NotFound):
        bus_certificates.certificates_of(engine, "nobody")
