"""What devices prove with who they are: certificates, claim codes, and the token that stands with the device.

Clauses 5.4a, 9.4.

A certificate is good while it is not revoked, its `until_us` has not come and its device is in service; who somebody is
at a door hangs on its fingerprint, never on the name in it. A claim code is used once. Asked again with the key that it
was used with, it gives the same certificate: an answer may be lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, literal, select, update

from domain.claim_codes import new_claim_code, parse_claim_code
from domain.enrolment import Enrolled, is_certificate
from domain.errors import Conflict, NotFound, Unauthenticated
from runtime.device_authority import Issued, Request, Signer
from runtime.sql.attached import NOBODY_KNOWS, Known, check_cut_off
from runtime.sql.credential_tables import claim_codes, credential_uses, device_certificates
from runtime.sql.devices import IN_SERVICE, RETIRED, replace_token
from runtime.sql.engine import reading, writing
from runtime.sql.isolation_tables import is_isolated
from runtime.sql.records import Author, Row, log_write, one
from runtime.sql.tables import devices, hospitals
from runtime.tokens import token_digest

MOST_CERTIFICATES: Final = 8  # of one device that are good at once: more is a device gone wrong
TOKEN: Final = "token"  # noqa: S105 (the id of whatever token a device has)
_CERTIFICATE: Final = "certificate-"
_CODE: Final = "claim-code-"
_ROW: Final = re.compile(f"({_CERTIFICATE}|{_CODE})([1-9][0-9]{{,16}})")
_CHUNK: Final = 500
_RENEWED_AT: Final = 2 / 3  # of its life; asked for earlier, with its own key, it is given again
_UNKNOWN_CODE: Final = "the claim code is unknown, has ended or was replaced: ask for another one"


@dataclass(frozen=True, slots=True)
class EnrolmentRules:
    """How long things are good, in µs: a claim code, a certificate, and an old certificate beside the one that renewed it."""

    code_us: int
    certificate_us: int
    overlap_us: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is good of a device in service."""

    credentials: frozenset[str]
    needs_certificate: bool

    def holds(self, shown: Sequence[str]) -> bool:
        """Whether somebody who showed these may stay."""
        is_enough = not self.needs_certificate or any(map(is_certificate, shown))
        return bool(shown) and is_enough and self.credentials.issuperset(shown)


# --- claim codes ---


def make_claim_code(connection: Connection, author: Author, handle: int, rules: EnrolmentRules) -> tuple[str, int]:
    """A code of a device, shown this once, and when it ends; one that it had is good no more. Part of the caller's transaction.

    Raises NotFound, Conflict for a retired device.
    """
    device = _in_service(connection, handle)
    code, ends_us = new_claim_code(), author.now_us + rules.code_us
    open_ones = claim_codes.c.used_us.is_(None) & claim_codes.c.revoked_us.is_(None)
    connection.execute(update(claim_codes).where(claim_codes.c.handle == handle, open_ones).values(revoked_us=author.now_us))
    connection.execute(insert(claim_codes).values(
        handle=handle, digest=token_digest(parse_claim_code(code)), made_us=author.now_us, ends_us=ends_us,
        made_by=author.who,
    ))  # fmt: skip
    log_write(connection, author, "device.claim-code", _name(device))
    return code, ends_us


def claim(
    engine: Engine, code: str, asked: Request | None, signer: Signer | None, now_us: int, rules: EnrolmentRules
) -> Enrolled:
    """What a device gets for its code: a certificate for the key that it asks with, or a token.

    Raises InvalidInput for what is no code, Unauthenticated for one that is not good, Conflict when it was used.
    """
    digest = token_digest(parse_claim_code(code))
    with reading(engine) as connection:  # a guess takes no turn of those who write
        _good_code(connection, digest, now_us)
    with writing(engine) as connection:
        row = _good_code(connection, digest, now_us)
        device = _in_service(connection, row["handle"])
        author = Author(_name(device), None, now_us)
        if row["used_us"] is not None:
            return _given_again(connection, device, row, asked, signer, now_us)
        used: dict[str, Any] = {"used_us": now_us}
        if asked is None or signer is None:
            given = Enrolled(_name(device), token=replace_token(connection, author, row["handle"]))
        else:
            _check_room(connection, device, now_us)
            issued = signer.issue(asked, device["hospital_id"], device["device_id"], now_us, rules.certificate_us)
            used["certificate_id"] = add_certificate(connection, author, device, issued)
            given = Enrolled(_name(device), issued.pem + signer.chain)
        connection.execute(update(claim_codes).where(claim_codes.c.id == row["id"]).values(used))
        log_write(connection, author, "device.claim", _name(device))
        return given


def _good_code(connection: Connection, digest: str, now_us: int) -> Row:
    row = connection.execute(select(claim_codes).where(claim_codes.c.digest == digest)).mappings().one_or_none()
    if row is None or row["revoked_us"] is not None or row["ends_us"] <= now_us:
        raise Unauthenticated(_UNKNOWN_CODE)
    return dict(row)


def _given_again(
    connection: Connection, device: Row, code: Row, asked: Request | None, signer: Signer | None, now_us: int
) -> Enrolled:
    query = select(device_certificates).where(device_certificates.c.id == code["certificate_id"])
    made = connection.execute(query).mappings().one_or_none()
    if made is None or asked is None or signer is None or made["key_digest"] != asked.key_digest:
        raise Conflict("the claim code was used already, for another key: if that was not you, tell who gave it to you")
    if made["revoked_us"] is not None or made["until_us"] <= now_us:
        raise Conflict("the claim code was used already, and what it gave was revoked: ask for another one")
    return Enrolled(_name(device), made["certificate"] + signer.chain)


# --- certificates ---


def renew(
    engine: Engine, handle: int, shown: Sequence[str], asked: Request, signer: Signer, now_us: int, rules: EnrolmentRules
) -> Enrolled:
    """Another certificate for a device that has shown who it is. What it showed is good for `overlap_us` beside it.

    Asked again with the key of its newest certificate, well before that ends, it is given that one: an answer may be lost.
    Raises Conflict when it is retired or isolated, or has too many, Unauthenticated when what it showed is good no more: a
    door may not know that yet.
    """
    with writing(engine) as connection:
        device = _in_service(connection, handle)
        mine = select(device_certificates.c.fingerprint).where(device_certificates.c.handle == handle)
        held = {*connection.execute(_good(mine, now_us)).scalars(), device["token_digest"]} - {None}
        if not Standing(frozenset(held), device["needs_certificate"]).holds(shown):
            raise Unauthenticated(f"what device {_name(device)} showed is good no more")
        author = Author(_name(device), None, now_us)
        own = select(device_certificates).where(
            device_certificates.c.handle == handle, device_certificates.c.key_digest == asked.key_digest
        )
        for row in connection.execute(_good(own, now_us)).mappings():
            is_due = now_us >= row["made_us"] + (row["ends_us"] - row["made_us"]) * _RENEWED_AT
            if row["until_us"] == row["ends_us"] and not is_due:
                return Enrolled(_name(device), row["certificate"] + signer.chain)
        _check_room(connection, device, now_us)
        issued = signer.issue(asked, device["hospital_id"], device["device_id"], now_us, rules.certificate_us)
        add_certificate(connection, author, device, issued)
        old = device_certificates.c.handle == handle, device_certificates.c.fingerprint.in_(list(shown))
        late = device_certificates.c.until_us > now_us + rules.overlap_us
        connection.execute(update(device_certificates).where(*old, late).values(until_us=now_us + rules.overlap_us))
        log_write(connection, author, "device.renew-certificate", _name(device), {"serial": issued.serial})
        return Enrolled(_name(device), issued.pem + signer.chain)


def give_certificate(
    connection: Connection, author: Author, handle: int, signer: Signer, rules: EnrolmentRules
) -> tuple[str, str]:
    """A key that is made here, and its certificate with the chain; the key is kept nowhere. Part of the caller's transaction.

    Raises NotFound, Conflict for a retired device or one that has too many.
    """
    device = _in_service(connection, handle)
    _check_room(connection, device, author.now_us)
    key, issued = signer.make(device["hospital_id"], device["device_id"], author.now_us, rules.certificate_us)
    add_certificate(connection, author, device, issued)
    log_write(connection, author, "device.give-certificate", _name(device), {"serial": issued.serial})
    return key, issued.pem + signer.chain


def _check_room(connection: Connection, device: Row, now_us: int) -> None:
    """Raises Conflict when the device has too many certificates that are good: asked before one is signed."""
    counted = _good(select(func.count()).where(device_certificates.c.handle == device["handle"]), now_us)
    if connection.execute(counted).scalar_one() >= MOST_CERTIFICATES:
        raise Conflict(
            f"device {_name(device)} has {MOST_CERTIFICATES} certificates that are good: revoke some, or wait for their end"
        )


def add_certificate(connection: Connection, author: Author, device: Row, issued: Issued) -> int:
    """Keep a certificate that was issued, for which there was room; returns its id."""
    values = {
        "handle": device["handle"], "fingerprint": issued.fingerprint, "serial": issued.serial,
        "key_digest": issued.key_digest, "certificate": issued.pem, "made_us": author.now_us, "ends_us": issued.ends_us,
        "until_us": issued.ends_us, "made_by": author.who,
    }  # fmt: skip
    made = connection.execute(insert(device_certificates).values(values).returning(device_certificates.c.id))
    return int(made.scalar_one())


# --- all that a device has ---


def credentials_of(engine: Engine, handle: int) -> list[Row]:
    """Token, certificates and claim codes of a device, the newest first, each with `id`, `kind` and when it was used last."""
    used = select(credential_uses.c.credential, credential_uses.c.last_used_us).where(credential_uses.c.handle == handle)
    certificates = select(device_certificates).where(device_certificates.c.handle == handle)
    codes = select(claim_codes).where(claim_codes.c.handle == handle)
    with reading(engine) as connection:
        device = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
        last = dict(connection.execute(used).all())
        kept = [
            {**row, "id": f"{_CERTIFICATE}{row['id']}", "kind": "certificate", "last_used_us": last.get(row["fingerprint"])}
            for row in connection.execute(certificates).mappings()
        ] + [
            {**row, "id": f"{_CODE}{row['id']}", "kind": "claim-code", "last_used_us": row["used_us"]}
            for row in connection.execute(codes).mappings()
        ]
    kept.sort(key=lambda row: -int(row["made_us"]))
    if device["token_digest"] is None:
        return kept
    made = {"made_us": device["token_made_us"], "made_by": device["token_made_by"]}
    return [{"id": TOKEN, "kind": "token", "last_used_us": last.get(device["token_digest"]), **made}, *kept]


def revoke(engine: Engine, author: Author, handle: int, credential_id: str, known: Known = NOBODY_KNOWS) -> None:
    """End one credential of a device for good.

    Raises NotFound, also when it has ended already, and PatientAttached when it may be what a device comes with that is on
    a patient, or carries what is, of whom nobody of the ward is `known` to know. Claim codes are not.
    """
    with writing(engine) as connection:
        query = select(devices).where(devices.c.handle == handle)
        device = one(connection, query, f"device with handle {handle}")
        row = _ROW.fullmatch(credential_id)
        detail: Row = {"credential": credential_id}
        done: Any = None
        if credential_id == TOKEN:
            done = update(devices).where(devices.c.handle == handle, devices.c.token_digest.is_not(None))
            done = done.values(token_digest=None, version=devices.c.version + 1)
        elif row is not None:
            table = claim_codes if row[1] == _CODE else device_certificates
            mine = table.c.handle == handle, table.c.id == int(row[2]), table.c.revoked_us.is_(None)
            done = update(table).where(*mine).values(revoked_us=author.now_us)
        if done is None or connection.execute(done).rowcount == 0:
            raise NotFound(f"credential {credential_id[:40]!r} of device {_name(device)} is unknown, or was revoked already")
        if row is None or row[1] != _CODE:
            detail |= check_cut_off(connection, device, author.now_us, known)
        log_write(connection, author, "device.revoke-credential", _name(device), detail)


# --- for doors ---


def holders_of(engine: Engine, fingerprints: Sequence[str]) -> dict[str, Row]:
    """The device in service of each of these certificates, its hospital's shard, and `until_us` and `revoked_us` of that."""
    found: dict[str, Row] = {}
    columns = (device_certificates.c.fingerprint, device_certificates.c.until_us, device_certificates.c.revoked_us)
    query = (
        select(devices, hospitals.c.shard, *columns)
        .join(hospitals, hospitals.c.id == devices.c.hospital_id)
        .join(device_certificates, device_certificates.c.handle == devices.c.handle)
    )
    with reading(engine) as connection:
        for start in range(0, len(fingerprints), _CHUNK):
            part = query.where(device_certificates.c.fingerprint.in_(list(fingerprints[start : start + _CHUNK])), IN_SERVICE)
            found |= {row["fingerprint"]: dict(row) for row in connection.execute(part).mappings()}
    return found


def standing(engine: Engine, handles: Sequence[int], now_us: int) -> dict[int, Standing]:
    """What each of these devices that is in service may come with now."""
    found: dict[int, Standing] = {}
    with reading(engine) as connection:
        for start in range(0, len(handles), _CHUNK):
            part = list(handles[start : start + _CHUNK])
            of_devices = select(devices.c.handle, devices.c.token_digest, devices.c.needs_certificate)
            good = select(device_certificates.c.handle, device_certificates.c.fingerprint)
            held: dict[int, set[str]] = {}
            for handle, mark in connection.execute(_good(good.where(device_certificates.c.handle.in_(part)), now_us)):
                held.setdefault(handle, set()).add(mark)
            for row in connection.execute(of_devices.where(devices.c.handle.in_(part), IN_SERVICE)):
                marks = held.get(row.handle, set()) | ({row.token_digest} if row.token_digest is not None else set())
                found[row.handle] = Standing(frozenset(marks), row.needs_certificate)
    return found


def _good(query: Any, now_us: int) -> Any:
    return query.where(device_certificates.c.revoked_us.is_(None), device_certificates.c.until_us > now_us)


def _in_service(connection: Connection, handle: int) -> Row:
    device = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
    if device["status"] == RETIRED:
        raise Conflict(f"device {_name(device)} is retired: register another one")
    if connection.execute(select(is_isolated(literal(handle)))).scalar_one():
        raise Conflict(f"device {_name(device)} is isolated: release it first")
    return device


def _name(device: Row) -> str:
    return f"{device['hospital_id']}/{device['device_id']}"
