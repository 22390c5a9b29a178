"""The doctor's look at certificates: what there is, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cluster.connection import Connection
from cluster.findings import Finding, Level, ok
from cluster.pki import API, DOORS, NODE, authority_of, devices_authority_of, is_given, ray_authority_of, served_with, wanted_by
from domain.bus_rights import BUS_RIGHTS
from domain.errors import VitalgridError
from domain.instants import from_us
from runtime.certificates import is_due, read_certificate
from runtime.clock import SystemClock
from runtime.settings import Settings
from runtime.tls import TakenUp


def certificates(settings: Settings) -> Iterator[Finding]:
    """Certificates and their end. None is made here: a start makes what is missing or due, and a running platform too."""
    now, runs = from_us(SystemClock().now_us()), _runs(settings)
    own = wanted_by(settings, BUS_RIGHTS)
    if not own:
        yield ok("certificates", f"none of its own: security profile {settings.security.profile} speaks plain on loopback")
    authority = authority_of(settings)
    if own and not authority.file.exists():
        yield ok("certificates", "the first start makes an authority and what it signs")
    elif own:
        yield _certificate("certificate.authority", authority.file, now)
    if (of_devices := devices_authority_of(settings).file).exists():
        yield _certificate("certificate.devices", of_devices, now)
    files = {one.name: authority.file_of(one.name) for one in own} | {"ray": ray_authority_of(settings).file_of(NODE)}
    for name, file in files.items() if own and authority.file.exists() else ():
        found = _certificate(f"certificate.{name}", file, now)
        is_mended = found.level is not Level.OK and not runs
        yield ok(found.check, f"{found.says}; the next start makes another") if is_mended else found
    for name in (name for name in (API, DOORS) if is_given(settings, name)):
        yield _given_certificate(settings, name, now)


def _runs(settings: Settings) -> bool:
    try:
        Connection.load(settings.data_dir)
    except VitalgridError:
        return False
    return True


def _given_certificate(settings: Settings, name: str, now: datetime) -> Finding:
    files = served_with(settings, name)
    assert files is not None
    try:
        TakenUp.server(files)
    except VitalgridError as error:
        return Finding(f"certificate.{name}", Level.PROBLEM, str(error), f"mend the files that {name}.tls_* name")
    return _certificate(f"certificate.{name}", Path(files.certificate), now)


def _certificate(check: str, path: Path, now: datetime) -> Finding:
    mend = "docs/runbook.md, Certificates"
    try:
        certificate = read_certificate(path)
    except VitalgridError as error:
        return Finding(check, Level.PROBLEM, str(error), mend)
    says = f"{path} ends {certificate.not_valid_after_utc:%Y-%m-%d}"
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return Finding(check, Level.PROBLEM, f"{says}: it does not hold now", mend)
    if is_due(certificate, now):
        return Finding(check, Level.WARNING, f"{says}: it is time to renew it", mend)
    return ok(check, says)
