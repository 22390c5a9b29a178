"""The API's process: REST, live streams, alarm desk, relays, webhook. Started by `cluster.platform`."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from sqlalchemy import Engine

from api.app import create_app
from api.limits import RequestLimits
from api.proxies import BehindProxies
from api.services import Services, WebhookTarget
from api.sign_in import SignInRules
from cluster import limits
from cluster.connection import Connection, first_password_file
from cluster.doors_process import intake_limits
from cluster.first_start import password_hashes, sealer_of
from cluster.pki import API, DOORS, devices_authority_of, listener_tls, served_with
from cluster.processes import tell_ready, until_ended
from cluster.sealing import file_seal
from cluster.serving import serving
from domain import bus_rights, subjects
from domain.errors import VitalgridError
from domain.instants import US_PER_S
from domain.loopback import is_loopback
from domain.permissions import Level
from domain.principals import Place
from domain.risks import Posture
from runtime.access_journal import AccessJournal
from runtime.authorisation import CedarAuthoriser
from runtime.bus import Bus
from runtime.callers import SqlCallers
from runtime.clock import SystemClock
from runtime.device_authority import DeviceAuthority
from runtime.enrolment import Enrolments
from runtime.erasure_certificates import certificate_signer, own_vkeys
from runtime.garbage import look_seldom
from runtime.identities import SqlIdentities
from runtime.intake import StreamIntake
from runtime.key_provider import provider_of
from runtime.lake import Lake
from runtime.large_questions import LargeReadings
from runtime.log import configure_logging
from runtime.log_store import LogReader
from runtime.priority import share_finely
from runtime.reading_store import ReadingStore
from runtime.retention import Periods
from runtime.second_factors import SecondFactors
from runtime.setting_sections import LimitSettings, SecuritySettings, WebhookSettings
from runtime.settings import Settings
from runtime.sql.credentials import EnrolmentRules
from runtime.sql.engine import open_engine
from runtime.sql.lockout import LockRule
from runtime.sql.patients import close_names, warm_names
from runtime.sql.sessions import SessionRules
from runtime.storage import of_stream
from runtime.tasks import end
from runtime.tls import Trust
from scenarios.launch import ScenarioRuns

logger = logging.getLogger(__name__)

_API_SOURCE: Final = 2
_ACCESSES: Final = "accesses/api.db"  # of this process alone; under the data folder
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


async def main() -> None:
    """Serve until asked to end."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    connection = Connection.load(settings.data_dir)
    bus, of_hospitals = [await _connected(connection, name) for name in ("api", "hospitals")]
    engine = open_engine(settings.sql_url_of(settings.api), sealer_of(settings))
    lake = await asyncio.to_thread(Lake, settings.lake_dir, file_seal(settings))
    clock = SystemClock()
    identities = SqlIdentities(engine)
    places = asyncio.create_task(identities.keep_places(), name="places")
    await bus.core_subscribe(subjects.DIRECTORY_CHANGED, lambda _payload, _subject: identities.forget())
    intake = StreamIntake(bus, identities, clock, source=_API_SOURCE, limits=intake_limits(settings.intake))
    await bus.core_subscribe(subjects.STORAGE, lambda payload, _subject: intake.heed(of_stream(payload)))
    rules = _sign_in_rules(settings.security)
    callers = SqlCallers(engine, settings.region_id, clock, rules.session, second_factor=settings.second_factor)
    await bus.core_subscribe(subjects.SESSIONS_CHANGED, lambda payload, _subject: callers.forget(payload.decode()))
    tls, keys = listener_tls(settings, API), provider_of(settings)
    accesses = await asyncio.to_thread(AccessJournal.open_or_anew, settings.data_dir / _ACCESSES, clock.now_us())
    services = Services(
        engine=engine, bus=bus, hospitals_bus=of_hospitals, lake=lake, readings=ReadingStore(lake, bus, range(settings.shards)),
        large_readings=LargeReadings(bus), intake=intake, clock=clock, callers=callers,
        authoriser=CedarAuthoriser.of_package(clock),
        region_id=settings.region_id, shards=settings.shards, log=LogReader(settings.audit_dir),
        passwords=password_hashes(keys, settings.security), second_factors=SecondFactors(keys),
        over_tls=tls is not None, credential_days=settings.security.credential_days,
        periods=Periods.of(settings.retention, settings.lake),
        certificate_vkeys=partial(own_vkeys, certificate_signer(keys, settings.audit_origin)),
        sign_in_rules=rules, accesses=accesses, first_password_file=first_password_file(settings.data_dir),
        webhook=_webhook(settings.webhook), posture=_posture(settings),
        scenarios=ScenarioRuns(Path("reports"), settings.data_dir, clock),
        device_authority=DeviceAuthority(devices_authority_of(settings)), enrolment_rules=_enrolment_rules(settings.security),
    )  # fmt: skip
    enrolments = Enrolments(
        engine, services.device_authority, clock, services.enrolment_rules,
        changed=partial(bus.core_publish, subjects.DIRECTORY_CHANGED, b""),
    )  # fmt: skip
    await bus.answer(subjects.ENROLMENT, enrolments.answer)
    app = create_app(services, limits=_requests(settings.limits))
    cut = app.state.telemetry.connections_cut
    served = serving(
        BehindProxies(app, limits.proxies(settings.limits)), settings.api.host, settings.api.port, tls=tls,
        limits=limits.http_listener(settings.limits), http=limits.api_http(settings.limits, cut),
    )  # fmt: skip
    async with served as port:
        look_seldom()
        tell_ready(port=port)
        logger.info("API open", extra={"port": port})
        ahead = asyncio.create_task(services.readings.look_ahead(), name="look ahead")
        # takes a second or two, and under a flood of those who ask for it many: whoever asks first does not wait for it
        describing = asyncio.create_task(asyncio.to_thread(app.openapi), name="describe")
        names = asyncio.create_task(_warm_names(engine), name="names")
        await until_ended()
    await intake.close()
    close_names(engine)
    await end(places, ahead, describing, names)
    await of_hospitals.close()
    await bus.close()
    accesses.close()
    engine.dispose()


def _requests(limits: LimitSettings) -> RequestLimits:
    return RequestLimits(
        limits.failures, limits.failures_a_s, limits.cost, limits.cost_a_s, limits.at_once, limits.large_at_once,
        limits.live_streams,
    )  # fmt: skip


async def _connected(connection: Connection, name: str) -> Bus:
    return await Bus.connect(connection.nats_url, connection.bus_key(bus_rights.API), name)


async def _warm_names(engine: Engine) -> None:
    """Names of patients into memory, beside the first requests. What fails here is tried again by the first search."""
    began_s = time.perf_counter()
    try:
        count = await asyncio.to_thread(warm_names, engine)
    except VitalgridError as error:
        logger.warning("names of patients are not in memory yet: %s", error)
    else:
        logger.info("names of patients in memory", extra={"count": count, "took_s": round(time.perf_counter() - began_s, 1)})


def _sign_in_rules(settings: SecuritySettings) -> SignInRules:
    session = SessionRules(
        _us(settings.session_idle_s), _us(settings.session_lifetime_s), _us(settings.password_days * _DAY_S) or None,
        _us(settings.given_password_days * _DAY_S),
    )  # fmt: skip
    return SignInRules(session, LockRule(settings.lock_failures, _us(settings.lock_s)))


def _enrolment_rules(settings: SecuritySettings) -> EnrolmentRules:
    return EnrolmentRules(
        _us(settings.claim_code_hours * _HOUR_S), _us(settings.device_certificate_days * _DAY_S),
        _us(settings.certificate_overlap_hours * _HOUR_S),
    )  # fmt: skip


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)


def _posture(settings: Settings) -> Posture:
    """What rules of the register of risks are told of how the platform is set up."""
    served = [served_with(settings, name) for name in (API, DOORS)]
    return Posture(
        speaks_plain=None in served,
        is_on_loopback=all(is_loopback(host) for host in (settings.api.host, settings.doors.host, settings.bus.host)),
        seals_files=settings.seals_files,
        keys_lie_beside=_device_of(settings.keys_dir) == _device_of(settings.data_dir),
        outside_witnesses=len(settings.audit.witnesses),
    )  # fmt: skip


def _device_of(folder: Path) -> int | None:
    return folder.stat().st_dev if folder.exists() else None


def _webhook(settings: WebhookSettings) -> WebhookTarget | None:
    if settings.url is None or settings.secret is None:
        return None
    trust = Trust(str(settings.ca_file) if settings.ca_file else "")
    place = None if settings.place is None else Place.parse(settings.place)
    return WebhookTarget(settings.url, settings.secret.get_secret_value(), trust, place, Level(settings.highest_level))


if __name__ == "__main__":
    uvloop.run(main())
