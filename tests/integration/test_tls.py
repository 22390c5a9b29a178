"""TLS of our listeners, met by a real client: who is believed, what is refused, and a renewal without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import InvalidInput
from runtime.certificates import Authority, Wanted
from runtime.tls import CertificateFiles, TakenUp, Trust
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.1a")]

HERE = frozenset({"127.0.0.1"})


def authority_in(folder, *, now=None):
    made = Authority(folder)
    made.make_missing("sz", now or datetime.now(UTC))
    return made


def server_of(authority, *, names=HERE, now=None, is_server=True):
    authority.keep(Wanted("api", names, is_server=is_server), now or datetime.now(UTC))
    file = str(authority.file_of("api"))
    return TakenUp.server(CertificateFiles(file, file))


@contextlib.asynccontextmanager
async def listening(tls):
    """The port of a server that says every line again."""

    async def echo(reader, writer):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def said_again(reader, writer, line=b"hello\n"):
    writer.write(line)
    async with asyncio.timeout(5):
        return await reader.readline()


async def serial_of(port, context):
    """The serial number of the certificate that a new connection meets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    assert await said_again(reader, writer) == b"hello\n"
    serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    return serial


async def test_whoever_has_the_authority_is_served_and_by_strong_means_only(tmp_path):
    authority = authority_in(tmp_path)
    async with listening(server_of(authority)) as port:
        for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = Trust(str(authority.file)).context()
            context.maximum_version = highest
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            assert await said_again(reader, writer) == b"hello\n"
            name, version, _ = writer.get_extra_info("cipher")
            assert "GCM" in name or "CHACHA20" in name
            assert version in ("TLSv1.2", "TLSv1.3")
            writer.close()


@pytest.mark.parametrize("lax", ["TLS 1.1", "no forward secrecy", "no authentication of the text"])
async def test_weak_means_are_refused(tmp_path, lax):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    if lax == "TLS 1.1":
        with pytest.warns(DeprecationWarning, match="deprecated"):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("kRSA:@SECLEVEL=0" if lax == "no forward secrecy" else "ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")
    async with listening(server_of(authority_in(tmp_path))) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=context)


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize(("wrong", "says"), [
    ("a foreign authority", "unable to get local issuer certificate"),
    ("an ended certificate", "certificate has expired"),
    ("another name", "IP address mismatch"),
    ("a client's certificate", "unsuitable certificate purpose"),
])  # fmt: skip
async def test_a_client_refuses(tmp_path, wrong, says):
    authority = authority_in(tmp_path / "ours", now=datetime.now(UTC) - timedelta(days=100))
    server = {
        "a foreign authority": lambda: server_of(authority_in(tmp_path / "theirs")),
        "an ended certificate": lambda: server_of(authority, now=datetime.now(UTC) - timedelta(days=91)),
        "another name": lambda: server_of(authority, names=frozenset({"10.9.9.9", "other.example"})),
        "a client's certificate": lambda: server_of(authority, is_server=False),
    }[wrong]()  # fmt: skip
    async with listening(server) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=says):
            await asyncio.open_connection("127.0.0.1", port, ssl=Trust(str(authority.file)).context())


async def test_a_given_certificate_is_known_by_itself_under_any_name_and_no_other_is(tmp_path):
    given = authority_in(tmp_path / "given")
    async with listening(server_of(given, names=frozenset({"ward.example"}))) as port:
        assert await serial_of(port, Trust(str(given.file_of("api")), is_pin=True).context())
        for unlike in (authority_in(tmp_path / "other"), given):  # one of the same authority is not the one either
            unlike.keep(Wanted("unlike", frozenset({"ward.example"}), is_server=True), datetime.now(UTC))
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(
                    "127.0.0.1", port, ssl=Trust(str(unlike.file_of("unlike")), is_pin=True).context()
                )


async def test_a_renewed_certificate_is_taken_up_while_open_connections_go_on(tmp_path):
    authority = authority_in(tmp_path)
    tls = server_of(authority)
    trusting = Trust(str(authority.file)).context()
    async with listening(tls) as port:
        open_one = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        before = await serial_of(port, trusting)
        assert not tls.look()
        authority.keep(Wanted("api", HERE, is_server=True), datetime.now(UTC) + timedelta(days=61))
        authority.keep(Wanted("api", HERE, is_server=True), datetime.now(UTC))
        keeping = asyncio.create_task(tls.keep(every_s=0.01))

        async def serves_another() -> bool:
            return await serial_of(port, trusting) != before

        await eventually(serves_another)
        keeping.cancel()
        assert await said_again(*open_one) == b"hello\n"
        open_one[1].close()


async def test_what_is_no_certificate_with_its_key_is_not_taken_up_and_said_once(tmp_path, caplog):
    authority = authority_in(tmp_path)
    tls = server_of(authority)
    trusting = Trust(str(authority.file)).context()
    async with listening(tls) as port:
        before = await serial_of(port, trusting)
        authority.file_of("api").write_bytes(authority.file.read_bytes())  # without its key
        with caplog.at_level(logging.WARNING, "runtime.tls"):
            assert not tls.look()
            assert not tls.look()
        assert len([record for record in caplog.records if "not taken up" in record.message]) == 1
        assert await serial_of(port, trusting) == before
        authority.file_of("api").unlink()
        assert not tls.look()
        authority.keep(Wanted("api", HERE, is_server=True), datetime.now(UTC))
        assert tls.look()
        assert await serial_of(port, trusting) != before


def test_files_that_hold_no_certificate_are_named(tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for is_pin in (False, True):
        for file in (empty, tmp_path / "missing.pem"):
            with pytest.raises(InvalidInput, match=file.name):
                Trust(str(file), is_pin=is_pin).context()
    with pytest.raises(InvalidInput, match=r"empty\.pem"):
        TakenUp.server(CertificateFiles(str(empty), str(empty)))
