"""Claim codes and certificates over the API: given one by one and for many, listed, revoked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from runtime.clock import ManualClock
from runtime.device_authority import DeviceAuthority
from runtime.sql.credentials import holders_of
from tests.enrolment import authority_of_devices, now_clock
from tests.unit.api.conftest import make, services_of

NO_STORE = "no-store"


@pytest.fixture
def clock() -> ManualClock:
    return now_clock()


@pytest.fixture
def authority(tmp_path: Path) -> DeviceAuthority:
    return authority_of_devices(tmp_path)


@pytest.fixture
async def app(engine: Engine, clock: ManualClock, authority: DeviceAuthority) -> AsyncIterator[FastAPI]:
    made = create_app(services_of(engine=engine, clock=clock, device_authority=authority), background=False)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def hospital(client: httpx.AsyncClient) -> str:
    await make(client, "hospitals", {"id": "sz.h001", "name": "A", "tier": "tertiary", "beds": 10})
    for number in range(1, 4):
        await make(client, "devices", {"hospital_id": "sz.h001", "device_id": f"mon-{number}", "model": "monitor"})
    return "sz.h001"


@pytest.mark.clause("5.4a")
async def test_a_claim_code_is_shown_once_and_listed_without_itself(client: httpx.AsyncClient, hospital: str) -> None:
    made = await client.post("devices/sz.h001/mon-1/claim-code")
    assert (made.status_code, made.headers["cache-control"]) == (201, NO_STORE)
    code = made.json()["claim_code"]
    listed = (await client.get("devices/sz.h001/mon-1/credentials")).json()
    assert [(row["kind"], row["state"]) for row in listed] == [("claim-code", "good")]
    assert code not in str(listed)
    assert (await client.delete(f"devices/sz.h001/mon-1/credentials/{listed[0]['id']}")).status_code == 204
    assert (await client.delete(f"devices/sz.h001/mon-1/credentials/{listed[0]['id']}")).status_code == 404
    assert [row["state"] for row in (await client.get("devices/sz.h001/mon-1/credentials")).json()] == ["revoked"]
    for nothing in ("claim-code-x", "certificate-99999999999999999999", "token", "claim-code-²", "x"):
        assert (await client.delete(f"devices/sz.h001/mon-1/credentials/{nothing}")).status_code == 404, nothing


@pytest.mark.clause("5.4a")
async def test_many_devices_get_claim_codes_with_a_report_on_every_row(client: httpx.AsyncClient, hospital: str) -> None:
    listed = "device_id,place\nmon-1,a\nnobody,b\nmon-2,c\nmon-1,d\n"
    answer = await client.post(
        "devices/claim-codes", params={"hospital": hospital}, content=listed, headers={"Content-Type": "text/csv"}
    )
    report = answer.json()
    assert (report["rows"], report["accepted"], report["refused"]) == (4, 2, 2)
    assert [bool(row["claim_code"]) for row in report["reports"]] == [True, False, True, False]
    assert "register it first" in report["reports"][1]["error"]
    assert answer.headers["cache-control"] == NO_STORE


@pytest.mark.clause("5.4a")
async def test_many_devices_get_keys_and_certificates_in_a_zip(
    client: httpx.AsyncClient, hospital: str, engine: Engine
) -> None:
    answer = await client.post("devices/certificates", params={"hospital": hospital}, json=["mon-1", "nobody", "mon-3"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert sorted(packed.namelist()) == ["mon-1.pem", "mon-3.pem", "report.csv"]
    assert "2,nobody,hospital" in packed.read("report.csv").decode()
    certificate, authority = x509.load_pem_x509_certificates(packed.read("mon-3.pem"))
    certificate.verify_directly_issued_by(authority)
    key = load_pem_private_key(packed.read("mon-3.pem"), None)
    assert key.public_key() == certificate.public_key()
    (listed,) = (await client.get("devices/sz.h001/mon-3/credentials")).json()
    assert (listed["kind"], listed["state"]) == ("certificate", "good")
    number = listed["id"].removeprefix("certificate-")
    for other in (number, f"certificate-0{number}", f"claim-code-{number}", f"{listed['id']} "):
        assert (await client.delete(f"devices/sz.h001/mon-3/credentials/{other}")).status_code == 404, other
    assert holders_of(engine, [listed["fingerprint"]])[listed["fingerprint"]]["device_id"] == "mon-3"
    assert (await client.delete(f"devices/sz.h001/mon-3/credentials/{listed['id']}")).status_code == 204


@pytest.mark.parametrize(
    ("content", "media", "status"),
    [
        ("[]", "application/json", 422),
        ("{}", "application/json", 422),
        ('["a b"]', "application/json", 422),
        ('["mon-1", 7]', "application/json", 422),
        ("id\nmon-1\n", "text/csv", 422),
        (b"\xff\xfe\x00", "text/csv", 422),
        ('["' + '","'.join(f"m-{number}" for number in range(501)) + '"]', "application/json", 422),
    ],
)
async def test_a_wrong_list_is_refused_as_a_whole(
    client: httpx.AsyncClient, hospital: str, content: str, media: str, status: int
) -> None:
    for path in ("devices/claim-codes", "devices/certificates"):
        answer = await client.post(path, params={"hospital": hospital}, content=content, headers={"Content-Type": media})
        assert answer.status_code == status, answer.text


@pytest.mark.clause("9.3b")
async def test_a_token_is_listed_with_who_made_it_and_a_retired_device_gets_nothing(
    client: httpx.AsyncClient, hospital: str
) -> None:
    await client.post("devices/sz.h001/mon-2/token")
    (listed,) = (await client.get("devices/sz.h001/mon-2/credentials")).json()
    assert (listed["id"], listed["until"], listed["last_used"]) == ("token", None, None)
    assert listed["made"] is not None
    assert listed["made_by"]
    retired = await client.post("devices/sz.h001/mon-2/retire", headers={"If-Match": '"2"'})
    assert retired.status_code == 200
    assert (await client.post("devices/sz.h001/mon-2/claim-code")).status_code == 409
    assert (await client.get("devices/sz.h001/mon-2/credentials")).json() == []


@pytest.mark.as_role("nurse@sz.h001/icu")
async def test_a_nurse_gives_no_credentials(client: httpx.AsyncClient) -> None:
    assert (await client.post("devices/claim-codes", params={"hospital": "sz.h001"}, json=["mon-1"])).status_code == 403
