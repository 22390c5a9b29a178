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
from domain.errors import Unavailable
from domain.fleet_manifest import Tier
from domain.principals import Place, Role
from runtime.bus_access import CertificateAccess, name_of_system
from runtime.certificates import Authority
from runtime.clock import SystemClock
from runtime.device_authority import read_request
from runtime.sql import access, bus_certificates, places
from runtime.sql.records import Author
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
