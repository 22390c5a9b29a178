"""Devices that come to have a certificate, prove with it who they are at both doors, renew it and lose it. Real clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from domain.errors import Busy, Conflict, TooManyAttempts, TooManyRequests, Unauthenticated
from runtime.device_authority import DeviceAuthority, Signer, read_request
from runtime.sql import devices
from runtime.sql.credentials import MOST_CERTIFICATES, credentials_of, renew, revoke
from runtime.sql.devices import NewDevice
from runtime.sql.engine import writing
from tests.doors import run
from tests.enrolment import HOUR_US, RULES, Doors, Held, open_doors
from tests.openssl import needs_openssl, openssl
from tests.sql_fixtures import ADA, HOSPITAL, SmallHospital
from tests.waiting import until

pytestmark = [pytest.mark.integration, needs_openssl]


@pytest.fixture
def token(engine: Engine, hospital: SmallHospital) -> str:
    """The monitor's."""
    return devices.rotate_token(engine, ADA, hospital.monitor["handle"])


@pytest.mark.clause("5.4a")
async def test_a_claim_code_works_once(engine: Engine, hospital: SmallHospital, tmp_path: Path) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        code = doors.code_of(monitor)
        held, thief = Held.make(tmp_path, "monitor"), Held.make(tmp_path, "thief")
        status, said = await doors.claim(code.lower().replace("-", " "), held)
        assert status == 200, said
        assert openssl("verify", "-CAfile", str(tmp_path / "devices" / "ca.pem"), str(held.certificate)).endswith("OK\n")
        assert "CN = mon-7" in openssl("x509", "-in", str(held.certificate), "-noout", "-subject")
        assert await doors.post(held) == (200, "")
        assert (await doors.mosquitto(held))[0] == 0
        assert doors.handles() == [monitor, monitor]

        status, said = await doors.claim(code, thief)
        assert (status, "conflict" in said) == (409, True)
        assert (await doors.claim(code, None))[0] == 409  # no token either
        again = held.again(tmp_path, "again")  # the answer was lost: the same key asks again
        assert (await doors.claim(code, again))[0] == 200
        assert again.certificate.read_text() == held.certificate.read_text()
        doors.clock.advance(2 * HOUR_US / 1e6)
        assert (await doors.claim(code, again))[0] == 401  # the code has ended
        kinds = [(row["kind"], row["made_by"]) for row in credentials_of(engine, monitor)]
        assert ("certificate", "sz.h001/mon-7") in kinds
        assert [kind for kind, _ in kinds].count("certificate") == 1


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize("wants_token", [False, True])
async def test_a_claim_code_works_once_however_many_ask_at_once(
    engine: Engine, hospital: SmallHospital, tmp_path: Path, wants_token: bool
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        code = doors.code_of(hospital.monitor["handle"])
        helds = [None if wants_token else Held.make(tmp_path, f"pump-{number}") for number in range(20)]
        answers = await asyncio.gather(*(doors.claim(code, held) for held in helds))
        assert sorted(status for status, _ in answers) == [200] + [409] * 19


@pytest.mark.clause("5.4a")
async def test_our_own_client_speaks_by_a_certificate_alone(engine: Engine, hospital: SmallHospital, tmp_path: Path) -> None:
    async with open_doors(engine, tmp_path) as doors:
        held = await doors.enrolled(hospital.monitor["handle"], "monitor")
        client = [sys.executable, "-m", "gateways.device_client", "--port", str(doors.mqtt_port), "--ca", str(doors.ca)]
        say = [*client, "--reading", "heart_rate=72"]
        assert await run(*say, "--cert", str(held.certificate), "--key", str(held.key)) == (0, "1 readings are stored\n")
        assert (await run(*say))[0] == 2
        assert doors.handles() == [hospital.monitor["handle"]]


@pytest.mark.clause("5.4a")
async def test_a_claim_without_a_request_gives_a_token(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        status, said = await doors.claim(doors.code_of(hospital.monitor["handle"]), None)
        assert (status, '"device":"sz.h001/mon-7"' in said) == (200, True)
        given = said.rpartition('"token":"')[2].partition('"')[0]
        assert await doors.post(None, "-H", f"Authorization: Bearer {given}") == (200, "")
        assert await doors.post(None, "-H", f"Authorization: Bearer {token}") == (401, "unauthenticated")


@pytest.mark.clause("9.4")
async def test_guessed_codes_are_refused_and_guessing_is_slowed_down(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        held = Held.make(tmp_path, "monitor")
        older, newer = doors.code_of(hospital.monitor["handle"]), doors.code_of(hospital.monitor["handle"])
        assert (await doors.claim(older, held))[0] == 401  # a new code takes the place of the old
        assert (await doors.claim("7K2M-9XQ4-HTRW-3CVB", held))[0] == 422  # mistyped: no guess
        for _ in range(19):
            assert (await doors.claim("7K2M-9XQ4-HTRW-3CVA", held))[0] == 401
        assert (await doors.claim(newer, held))[0] == 429
        doors.clock.advance(10)
        assert (await doors.claim(newer, held))[0] == 200


@pytest.mark.clause("9.4")
async def test_guesses_made_at_once_from_all_over_a_network_are_no_more_than_one_after_another(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        wrong, good = "7K2M-9XQ4-HTRW-3CVA", doors.code_of(hospital.monitor["handle"])
        guesses = [doors.enrolments.claim(wrong, b"", f"2001:db8::{number:x}") for number in range(1, 61)]
        said = await asyncio.gather(*guesses, return_exceptions=True)
        assert Counter(type(error) for error in said) == {Unauthenticated: 20, Busy: 40}
        with pytest.raises(TooManyAttempts):
            await doors.enrolments.claim(good, b"", "2001:db8::ffff")
        assert (await doors.enrolments.claim(good, b"", "2001:db8:0:1::1")).token


@pytest.mark.clause("8.2c")
async def test_what_is_no_good_request_is_refused_and_uses_no_code_up(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        code = doors.code_of(hospital.monitor["handle"])
        weak, good = Held.make(tmp_path, "weak", curve="secp224r1"), Held.make(tmp_path, "monitor")
        text, forged = Held(good.key, tmp_path / "text", good.certificate), Held.make(tmp_path, "forged")
        text.request.write_bytes(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
        openssl("req", "-in", str(good.request), "-outform", "DER", "-out", str(forged.request))
        der = bytearray(forged.request.read_bytes())
        der[-1] ^= 1
        forged.request.write_bytes(der)
        newer = Held(good.key, tmp_path / "newer", good.certificate)  # of a version that there is not
        newer.request.write_bytes(bytes(der).replace(b"\x02\x01\x00", b"\x02\x01\x05", 1))
        large = Held(good.key, tmp_path / "large", good.certificate)
        large.request.write_bytes(b"x" * 20_000)
        for held in (weak, text, forged, newer, large):
            assert (await doors.claim(code, held))[0] == 422
        assert (await doors.claim(code, good))[0] == 200


@pytest.mark.clause("8.2c")
@pytest.mark.clause("9.4")
async def test_a_device_cannot_speak_for_another_by_certificate_token_or_handle(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        held = Held.make(tmp_path, "pump", subject="/OU=sz.h001/CN=pump-3")  # it says that it is the pump
        assert (await doors.claim(doors.code_of(monitor), held))[0] == 200
        assert await doors.post(held, "-H", f"Authorization: Bearer {hospital.pump_token}") == (401, "wrong-certificate")
        assert (await doors.mosquitto(held, "-u", "mon-7", "-P", hospital.pump_token))[0] != 0
        assert (await doors.mosquitto(held, "-u", hospital.pump_token))[0] != 0
        assert await doors.post(held, "-H", "Authorization: Bearer of-nobody") == (401, "wrong-certificate")
        assert (await doors.mosquitto(held, "-u", "mon-7", "-P", "of-nobody"))[0] != 0
        assert (await doors.mosquitto(held, "-u", "of-nobody", "-P", "of-nobody"))[0] != 0  # a password is no name
        telemetry = ("-H", "Content-Type: application/json", "-d", '{"hr": 72}')
        assert (await doors.curl(f"/api/v1/{hospital.pump_token}/telemetry", *telemetry, held=held))[0] == 401
        assert doors.handles() == []
        assert await doors.post(held, "-H", f"Authorization: Bearer {token}") == (200, "")
        assert (await doors.mosquitto(held, "-u", "mon-7"))[0] == 0  # a name that is no token is a name
        assert (await doors.mosquitto(held, "-u", "mon-7", "-P", token))[0] == 0
        assert doors.handles() == [monitor] * 3
        assert doors.mqtt.counters.connections_refused["wrong-certificate"] == 4


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.3f")
async def test_certificates_of_others_are_refused_in_the_handshake(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    client = tmp_path / "client.ext"
    client.write_text("extendedKeyUsage=clientAuth\n")
    async with open_doors(engine, tmp_path) as doors:
        good = await doors.enrolled(monitor, "good")
        itself = Held.make(tmp_path, "itself", subject="/OU=sz.h001/CN=pump-3")
        openssl("x509", "-req", "-in", str(itself.request), "-signkey", str(itself.key), "-extfile", str(client),
                "-out", str(itself.certificate))  # fmt: skip
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
                "-subj", "/CN=sz devices", "-keyout", str(tmp_path / "f.key"), "-out", str(tmp_path / "f.pem"))  # fmt: skip
        foreign = Held.make(tmp_path, "foreign", subject="/OU=sz.h001/CN=pump-3")
        foreign.signed_by(tmp_path / "f.pem", tmp_path / "f.key", "-extfile", str(client))
        bus = Held.make(tmp_path, "bus").signed_by(tmp_path / "own" / "ca.pem", tmp_path / "own" / "ca.key")
        device = Held.make(tmp_path, "device").signed_by(good.certificate, good.key, "-extfile", str(client))
        ended = Held.make(tmp_path, "ended").signed_by(
            tmp_path / "devices" / "ca.pem", tmp_path / "devices" / "ca.key", "-days", "-1", "-extfile", str(client)
        )
        for wrong in (itself, foreign, bus, device, ended):
            assert (await doors.post(wrong))[0] == 0, wrong
            assert (await doors.mosquitto(wrong))[0] != 0, wrong
        # by our own authority, and never given to anybody by us
        unknown = Held.make(tmp_path, "unknown").signed_by(
            tmp_path / "devices" / "ca.pem", tmp_path / "devices" / "ca.key", "-extfile", str(client)
        )
        assert await doors.post(unknown) == (401, "wrong-certificate")
        assert (await doors.mosquitto(unknown))[0] != 0
        assert doors.handles() == []
        assert await doors.post(None) == (401, "unauthenticated")
        assert (await doors.post(None, "-H", f"Authorization: Bearer {token}"))[0] == 200


@contextlib.asynccontextmanager
async def listening(doors: Doors, held: Held) -> AsyncIterator[None]:
    """mosquitto_sub, connected, that does not come back by itself."""
    accepted = doors.mqtt.counters.connections_accepted
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-h", "127.0.0.1", "-p", str(doors.mqtt_port), "--cafile", str(doors.ca), "-i", "live",
        "--cert", str(held.certificate), "--key", str(held.key), "-t", "v1/devices/me/errors", "-W", "30",
    )  # fmt: skip
    try:
        await until(lambda: doors.mqtt.counters.connections_accepted > accepted)
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.4")
async def test_a_revoked_certificate_is_cut_off_within_seconds_on_both_doors(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        held = await doors.enrolled(monitor, "monitor")
        assert await doors.post(held) == (200, "")
        async with listening(doors, held):
            (row,) = [row for row in credentials_of(engine, monitor) if row["kind"] == "certificate"]
            revoke(engine, ADA, monitor, row["id"])
            doors.told()
            await until(lambda: doors.mqtt.counters.connections_ended["revoked"] == 1, 5)
        assert await doors.post(held) == (401, "wrong-certificate")
        assert (await doors.mosquitto(held))[0] != 0
        status, said = await doors.curl("/v1/certificate", "--data-binary", f"@{held.request}", held=held)
        assert (status, "revoked" in said) == (401, True)  # nor does it renew itself


@pytest.mark.clause("9.4")
async def test_the_end_of_a_certificate_ends_its_connection_and_a_retired_device_has_none(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    retired = devices.register_device(engine, ADA, HOSPITAL, NewDevice("mon-8", "monitor"))[0]["handle"]
    async with open_doors(engine, tmp_path) as doors:
        held, other = await doors.enrolled(monitor, "monitor"), await doors.enrolled(retired, "retired")
        async with listening(doors, held):
            assert await doors.post(held) == (200, "")
            doors.clock.advance(31 * 86_400)  # by our clock; what is remembered of it ends too
            assert await doors.post(held) == (401, "wrong-certificate")
            doors.mqtt.recheck()
            await until(lambda: doors.mqtt.counters.connections_ended["revoked"] == 1, 5)
        doors.clock.advance(-31 * 86_400)
        assert await doors.post(other) == (200, "")
        devices.retire_device(engine, ADA, retired, version=None)
        doors.told()
        status, said = await doors.curl("/v1/certificate", "--data-binary", f"@{other.request}", held=other)
        assert (status, "its device is retired" in said, '"wrong-certificate"' in said) == (401, True, True)


@pytest.mark.clause("9.4")
async def test_a_device_renews_its_certificate_and_the_old_one_is_good_for_a_while(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        old = await doors.enrolled(monitor, "old")
        same = old.again(tmp_path, "same")
        assert (await doors.renew(same, old))[0] == 200
        assert same.certificate.read_text() == old.certificate.read_text()  # not due, and the key is the same
        new = Held.make(tmp_path, "new")
        assert (await doors.renew(new, old))[0] == 200
        assert new.certificate.read_text() != old.certificate.read_text()
        assert (await doors.renew(new, old))[0] == 200  # the answer was lost
        assert [await doors.post(held) for held in (old, new)] == [(200, ""), (200, "")]
        by_token = Held.make(tmp_path, "by-token")
        bearer = ("-H", f"Authorization: Bearer {token}")
        status, said = await doors.curl("/v1/certificate", "--data-binary", f"@{by_token.request}", *bearer)
        assert status == 200
        by_token.certificate.write_text(said)
        assert await doors.post(by_token) == (200, "")
        doors.clock.advance(1.5 * HOUR_US / 1e6)
        doors.told()
        assert [await doors.post(held) for held in (old, new)] == [(401, "wrong-certificate"), (200, "")]
        more = [Held.make(tmp_path, f"more-{number}") for number in range(7)]
        assert [(await doors.renew(held, new))[0] for held in more] == [200] * 6 + [409]


@pytest.mark.clause("9.1b", "9.4")
async def test_who_renews_again_and_again_is_told_to_wait_and_another_device_is_not(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        held = await doors.enrolled(hospital.monitor["handle"], "monitor")
        sender = await doors.identities.identify(token)
        request = held.request.read_bytes()
        for _ in range(12):
            assert (await doors.enrolments.renew(sender, request)).chain == held.certificate.read_text()
        with pytest.raises(TooManyRequests, match="again in 30 s"):
            await doors.enrolments.renew(sender, request)
        status, said = await doors.curl("/v1/certificate", "-i", "--data-binary", f"@{held.request}", held=held)
        assert (status, "retry-after: 30" in said.lower(), '"too-many-requests"' in said) == (429, True, True)
        other = Held.make(tmp_path, "pump")
        bearer = ("-H", f"Authorization: Bearer {hospital.pump_token}")
        assert (await doors.curl("/v1/certificate", "--data-binary", f"@{other.request}", *bearer))[0] == 200
        doors.clock.advance(30)
        assert (await doors.renew(held, held))[0] == 200


@pytest.mark.clause("9.1b")
async def test_renewals_that_wait_for_the_database_hold_one_thread(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    async with open_doors(engine, tmp_path) as doors:
        request = Held.make(tmp_path, "monitor").request.read_bytes()
        senders = [await doors.identities.identify(shown) for shown in (token, hospital.pump_token)]
        with writing(engine):
            renewals = [asyncio.create_task(doors.enrolments.renew(sender, request)) for sender in senders * 12]
            more = [
                asyncio.create_task(doors.enrolments.renew(replace(senders[0], handle=n), request)) for n in range(900, 910)
            ]
            async with asyncio.timeout(10):
                for _ in range(20):
                    await asyncio.to_thread(int)
            busy = [task for task in more if task.done()]
            assert [type(task.exception()) for task in busy] == [Busy] * 2
        await asyncio.gather(*renewals)
        await asyncio.wait(more)


async def test_a_device_with_many_certificates_is_refused_before_another_is_signed(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    signed = []

    class Counted(Signer):
        def issue(self, *args, **kwargs):
            signed.append(args)
            return super().issue(*args, **kwargs)

    async with open_doors(engine, tmp_path) as doors:
        sender = await doors.identities.identify(token)
        ours = doors.authority.signer()
        signer = Counted(ours._own, ours._key)
        asked = [read_request(Held.make(tmp_path, f"more-{number}").request.read_bytes()) for number in range(9)]
        for request in asked[:MOST_CERTIFICATES]:
            renew(engine, sender.handle, sender.credentials, request, signer, doors.clock.now_us(), RULES)
        with pytest.raises(Conflict, match="certificates that are good"):
            renew(engine, sender.handle, sender.credentials, asked[-1], signer, doors.clock.now_us(), RULES)
        assert len(signed) == MOST_CERTIFICATES


@pytest.mark.clause("9.4")
async def test_a_device_that_needs_its_certificate_is_nobody_by_its_token_alone(
    engine: Engine, hospital: SmallHospital, token: str, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    bearer = ("-H", f"Authorization: Bearer {token}")
    async with open_doors(engine, tmp_path) as doors:
        held = await doors.enrolled(monitor, "monitor")
        assert await doors.post(None, *bearer) == (200, "")
        devices.update_device(engine, ADA, monitor, {"needs_certificate": True}, version=None)
        doors.told()
        assert await doors.post(None, *bearer) == (401, "certificate-required")
        assert (await doors.mosquitto(None, "-u", "mon-7", "-P", token))[0] != 0
        assert doors.mqtt.counters.connections_refused["certificate-required"] == 1
        assert [await doors.post(held, *given) for given in ((), bearer)] == [(200, ""), (200, "")]


@pytest.mark.clause("5.4a")
async def test_where_there_is_no_authority_of_devices_tokens_are_given(
    engine: Engine, hospital: SmallHospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(_: DeviceAuthority) -> None:
        raise Conflict("no certificates are made here")

    monkeypatch.setattr(DeviceAuthority, "signer", none_here)
    async with open_doors(engine, tmp_path) as doors:
        code = doors.code_of(hospital.monitor["handle"])
        assert (await doors.claim(code, Held.make(tmp_path, "monitor")))[0] == 409
        assert (await doors.claim(code, None))[0] == 200


_KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from runtime.sql.engine import open_engine
from runtime.sql import credentials
from runtime.certificates import Authority
from runtime.device_authority import DeviceAuthority, read_request
url, folder, code, request, now_us, moment = sys.argv[1:]
engine = open_engine(url)
def look(_c, _cursor, statement, *_):
    if statement.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)
if moment != "answer":
    event.listen(engine, "before_cursor_execute", look)
signer = DeviceAuthority(Authority(Path(folder))).signer()
rules = credentials.EnrolmentRules(10**9, 10**12, 10**9)
credentials.claim(engine, code, read_request(Path(request).read_bytes()), signer, int(now_us), rules)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("moment", ["UPDATE claim_codes", "answer"])
async def test_a_process_killed_between_issue_and_answer_costs_the_device_nothing(
    engine: Engine, hospital: SmallHospital, tmp_path: Path, moment: str
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        held, code = Held.make(tmp_path, "monitor"), doors.code_of(monitor)
        url = engine.url.render_as_string(hide_password=False)
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, url, str(tmp_path / "devices"), code, str(held.request),
            str(doors.clock.now_us()), moment, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        await killed.wait()
        assert killed.returncode == -signal.SIGKILL
        assert (await doors.claim(code, held))[0] == 200
        assert await doors.post(held) == (200, "")
        kinds = [row["kind"] for row in credentials_of(engine, monitor)]
        assert kinds.count("certificate") == 1
