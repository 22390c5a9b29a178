"""Certificates of erasure: what was erased where, signed, and proved to be in the access log. Clause 9.3h.

A certificate is a signed note (C2SP) with a line a fact. Its SHA-256 stands in the write `patient.erased`, which the access
log has: a `Bundle` brings both together with the log's proof, so that who knows the platform's keys needs nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from domain.audit_reading import certificate_in
from domain.erasures import AGAIN
from domain.errors import IntegrityViolation, InvalidInput
from domain.instants import to_rfc3339
from domain.log_entries import commitment, read_entry
from domain.signed_notes import ED25519, SM2, Note, PublicKey
from runtime.keys import KeyProvider
from runtime.log_verifier import CouldNotCheck, DoesNotHold, verify_proof
from runtime.note_signing import KeyVerifier, NoteSigner

CERTIFICATE_KEYS: Final[Mapping[str, bytes]] = {"certificate-ed25519": ED25519, "certificate-sm2": SM2}
_KEPT: Final = "kept as the law wants"
_KEPT_BEFORE: Final = f"{_KEPT}: until before the erasure that this one repeats, of what an older copy brought back"
HEAD: Final = "vitalgrid certificate of erasure, version 1"
_BACKUPS: Final = (
    "names, references, notes and reasons are sealed with the destroyed key in every copy of the database; the key is in no "
    "copy of the database, and a copy of the keys that has it is told to destroy it by destroyed.list"
)


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate with what proves it. Bytes are base64 in JSON."""

    certificate: str
    event: bytes
    salt: bytes
    entry: bytes
    proof: str
    vkeys: tuple[str, ...] = ()  # to be compared with what the platform's owner says elsewhere


def certificate_signer(keys: KeyProvider, origin: str) -> NoteSigner:
    """Who signs certificates of the platform whose access log is called `origin`."""
    return NoteSigner(keys, f"{origin}/certificates", CERTIFICATE_KEYS)


def certificate_text(row: Mapping[str, Any], ended_us: int, until_us: Mapping[str, int | None]) -> str:
    """What is signed. `until_us`: where something still lies, and until when at most."""
    counts = row["counts"]
    lines = [
        HEAD,
        f"patient: {row['patient_key']}",
        f"erasure: {row['id']}, asked for by {_line(row['who'])} at {to_rfc3339(row['requested_us'])}",
        _KEPT_BEFORE if counts.get(AGAIN) else f"{_KEPT} until: {to_rfc3339(row['retained_until_us'])}",
        f"erased: {to_rfc3339(ended_us)}",
        f"keys destroyed: {', '.join(counts.get('keys', ())) or 'none, there was none'}",
        f"business database: {_counted(counts.get('sql', {}))}",
        f"lake: {_counted(counts.get('lake', {}))}; no span leads from readings of devices to the patient",
        "write log: stays as it was written; what is said there of the opaque key leads to nobody any more",
        f"access log: {_counted(counts.get('log', {}))}; commitments stay",
        f"backups: {_BACKUPS}",
        "exports: what left the platform before is not reached by it",
        *(
            f"ages out: {place}, until {'it is overwritten' if us is None else to_rfc3339(us)}"
            for place, us in until_us.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def digest_of(certificate: str) -> str:
    """What the access log has of it."""
    return hashlib.sha256(certificate.encode()).hexdigest()


def verify_bundle(raw: bytes, vkeys: Sequence[str], log_vkeys: Sequence[str]) -> str:
    """The certificate's text, when its signatures, the log's entry and the proof of that hold.

    `vkeys`, `log_vkeys`: keys that are known from elsewhere. Raises IntegrityViolation, InvalidInput.
    """
    try:
        bundle = msgspec.json.decode(raw, type=Bundle)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"this is no certificate of erasure: {error}") from None
    note = Note.parse(bundle.certificate.encode())
    known = [KeyVerifier(PublicKey.parse(vkey)) for vkey in vkeys]
    for kind in CERTIFICATE_KEYS.values():
        note.verified_by(key for key in known if key.public.kind == kind)
    if not note.text.startswith(f"{HEAD}\n"):
        raise IntegrityViolation("this is signed, and no certificate of erasure")
    if certificate_in(bundle.event) != digest_of(bundle.certificate):
        raise IntegrityViolation("the event of the access log is of another certificate")
    if read_entry(bundle.entry).commitment != commitment(bundle.salt, bundle.event):
        raise IntegrityViolation("the entry of the access log is of another event")
    try:
        verify_proof(bundle.proof.encode(), bundle.entry, list(log_vkeys))
    except DoesNotHold as error:
        raise IntegrityViolation(f"the proof does not hold: {error}") from None
    except CouldNotCheck as error:
        raise InvalidInput(f"the proof could not be checked: {error}") from None
    return note.text


def own_vkeys(signer: NoteSigner) -> tuple[str, ...]:
    """Keys that certificates are verified with."""
    return tuple(key.vkey for key in signer.public_keys())


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "nothing"


def _line(text: str) -> str:
    """On one line, whatever somebody is called."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
