"""What a run asks of the REST API: the one place in this package where its paths are spelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self

import httpx
import msgspec

from domain.errors import Forbidden, InvalidInput, Unauthenticated, Unavailable, VitalgridError
from domain.fleet_manifest import FleetManifest, FleetRegistered
from domain.instants import to_rfc3339
from scenarios.target import Target

_REGISTER_TIMEOUT_S: Final = 300.0
_TIMEOUT_S: Final = 10.0
_ERRORS: Final[dict[int, type[VitalgridError]]] = {401: Unauthenticated, 403: Forbidden, 503: Unavailable, 429: Unavailable}


class Rest:
    """An authenticated client of one platform. Close it, or use it as an async context."""

    def __init__(self, target: Target) -> None:
        headers = {"Authorization": f"Bearer {target.token}", "X-Reason": "scenario run", "Accept-Encoding": "gzip"}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32)
        self._client = httpx.AsyncClient(
            base_url=f"{target.api_url}/api/v1", headers=headers, timeout=_TIMEOUT_S, limits=limits, trust_env=False,
            verify=target.api_tls(),
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def register(self, manifest: FleetManifest) -> FleetRegistered:
        """Register a fleet in one call. Raises Unavailable, or InvalidInput with the platform's own words.

        It is simulated: its gateways are given new tokens at once, whoever is on what they carry.
        """
        manifest = msgspec.structs.replace(manifest, even_on_patients=True)
        response = await self._send(
            "POST", "/fleets", content=msgspec.json.encode(manifest), timeout=_REGISTER_TIMEOUT_S,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        return msgspec.json.decode(response.content, type=FleetRegistered)

    async def is_ready(self) -> bool:
        """Whether the platform says that everything it stands on answers."""
        try:
            return (await self._client.get("/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def get(self, path: str, params: dict[str, Any] | None = None) -> Any:
        """The decoded JSON answer; raises Unavailable or InvalidInput."""
        return msgspec.json.decode((await self._send("GET", path, params=params)).content)

    async def device_state(self, hospital_id: str, device_id: str) -> dict[str, Any]:
        state = await self.get(f"/devices/{hospital_id}/{device_id}/state")
        assert isinstance(state, dict)
        return state

    async def latest_of_ward(self, hospital_id: str, ward_id: str) -> Any:
        """7.1a: clear conditions, few records."""
        return await self.get("/readings/latest", {"hospital": hospital_id, "ward": ward_id, "limit": 100})

    async def device_range(self, hospital_id: str, device_id: str, metric: str, from_us: int, until_us: int) -> Any:
        """7.1a: one device and metric over a short time."""
        params = {"device": f"{hospital_id}/{device_id}", "metric": metric, "limit": 1000, **_span(from_us, until_us)}
        return await self.get("/readings", params)

    async def search(self, part_of_name: str, from_us: int, until_us: int) -> Any:
        """7.1b: part of a name, over the region's readings."""
        return await self.get("/readings/search", {"q": part_of_name, "limit": 1000, **_span(from_us, until_us)})

    async def fleet_aggregate(self, metric: str, from_us: int, until_us: int) -> Any:
        """7.1b: many records, by hospital."""
        return await self.get("/aggregates/fleet", {"metric": metric, **_span(from_us, until_us)})

    async def live_devices(self, hospital_id: str) -> int:
        """How many devices of a hospital deliver as their models promise."""
        answer = await self.get("/freshness", {"hospital": hospital_id, "limit": 1})
        return int(answer["states"].get("live", 0))

    async def metrics_text(self) -> str:
        """The platform's numbers in Prometheus' text format."""
        return (await self._send("GET", "/metrics")).text

    async def patients_present(self, hospital_id: str) -> list[dict[str, Any]]:
        """Everybody who is admitted to a hospital."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"hospital": hospital_id, "present": True, "limit": 1000}
        while True:
            page = await self.get("/patients", params)
            found += page["items"]
            if page["next"] is None:
                return found
            params["cursor"] = httpx.URL(page["next"]).params["cursor"]

    async def admit_patient(
        self, hospital_id: str, ref: str, age_years: float | None, *, ward_id: str | None, bed_id: str | None, admitted_us: int
    ) -> dict[str, Any]:  # fmt: skip
        """HL7 A01; the answer holds the patient's key and handle."""
        body = {
            "hospital_id": hospital_id, "ref": ref, "age_years": age_years, "ward_id": ward_id, "bed_id": bed_id,
            "admitted": to_rfc3339(admitted_us),
        }  # fmt: skip
        admitted = msgspec.json.decode((await self._send("POST", "/patients", json=body)).content)
        assert isinstance(admitted, dict)
        return admitted

    async def move_patient(self, patient_key: str, ward_id: str | None, bed_id: str | None) -> None:
        """HL7 A02."""
        headers = await self._version_of(patient_key)
        await self._send("PATCH", f"/patients/{patient_key}", json={"ward_id": ward_id, "bed_id": bed_id}, headers=headers)

    async def discharge_patient(self, patient_key: str, at_us: int) -> None:
        """HL7 A03; devices that are on the patient come off."""
        headers = await self._version_of(patient_key)
        await self._send("POST", f"/patients/{patient_key}/discharge", json={"at": to_rfc3339(at_us)}, headers=headers)

    async def associate(self, hospital_id: str, device_id: str, patient_key: str, start_us: int) -> None:
        """Put a device on a patient."""
        start = to_rfc3339(start_us)
        body = {"hospital_id": hospital_id, "device_id": device_id, "patient_key": patient_key, "start": start}
        await self._send("POST", "/associations", json=body)

    async def end_associations(self, patient_key: str, end_us: int) -> None:
        """Take every device off a patient."""
        for span in await self.get("/associations", {"patient": patient_key}):
            if span["end"] is None:
                await self._send("POST", f"/associations/{span['id']}/end", json={"end": to_rfc3339(end_us)})

    async def readings_by_patient(self, device: str, metric: str, from_us: int, until_us: int) -> list[dict[str, Any]]:
        """Readings of `hospital/device`, each with the patient it belongs to."""
        params = {"device": device, "metric": metric, "limit": 1000, **_span(from_us, until_us)}
        found: list[dict[str, Any]] = (await self.get("/readings/by-patient", params))["items"]
        return found

    async def _version_of(self, patient_key: str) -> dict[str, str]:
        """The header that says on which version of a patient a change is made."""
        return {"If-Match": (await self._send("GET", f"/patients/{patient_key}")).headers["ETag"]}

    async def live_alarms(self, hospitals: Sequence[str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(event, data) of the live alarm stream of these hospitals; it connects again behind the last event seen."""
        last_id = ""
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                # heartbeats come every second: silence is a broken stream
                options: dict[str, Any] = {
                    "headers": headers,
                    "params": {"hospital": list(hospitals)},
                    "timeout": httpx.Timeout(_TIMEOUT_S),
                }
                async with self._client.stream("GET", "/live/alarms", **options) as response:
                    response.raise_for_status()
                    async for event, data, event_id in _events(response):
                        last_id = event_id or last_id
                        yield event, data
            except httpx.HTTPError:
                yield "disconnected", {}
                await asyncio.sleep(0.2)

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unavailable(f"the API does not answer {method} {path}: {str(error) or type(error).__name__}") from error
        if response.is_error:
            error_type = _ERRORS.get(response.status_code, InvalidInput)
            raise error_type(f"{method} {path} was answered {response.status_code}: {response.text[:500]}")
        return response


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any], str]]:
    event, data, event_id = "message", list[str](), ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield event, msgspec.json.decode("\n".join(data)), event_id
            event, data, event_id = "message", list[str](), ""
        elif field == "data":
            data.append(value)
        elif field == "event":
            event = value
        elif field == "id":
            event_id = value


def _span(from_us: int, until_us: int) -> dict[str, str]:
    return {"from": to_rfc3339(from_us), "until": to_rfc3339(until_us)}
