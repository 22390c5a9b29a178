"""Certificates of the platform's own: an authority that is made at the first start, and what it signs. X.509, P-256.

In its folder: `ca.pem`, which whoever is to trust the platform is given; `ca.key`, which is read only to sign; and for
each name a file with key and certificate, both in one, so that a renewal is there as a whole or not at all.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from domain.errors import IntegrityViolation
from runtime.durable import create_secret, write_secret
from runtime.keys import KeyMissing

_AUTHORITY_LIFE: Final = timedelta(days=3650)
_LIFE: Final = timedelta(days=90)
_LONG_LIFE: Final = timedelta(days=397)  # what browsers and scanners bear
_BACKDATED: Final = timedelta(hours=1)  # for those whose clock is behind
_RENEWED_AT: Final = 2 / 3
_PURPOSES: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate: for whom, and the host names and addresses it is to hold for. A server's serves no client.

    `is_peer`: of one who is both to others of its kind. `lasts`: for more than a year, for whoever takes it up once and
    serves with it to its end.
    """

    name: str
    holds_for: frozenset[str]
    is_server: bool
    is_peer: bool = False
    lasts: bool = False

    def purposes(self) -> list[x509.ObjectIdentifier]:
        return list(_PURPOSES) if self.is_peer else [_PURPOSES[self.is_server]]


class Authority:
    """The authority of one folder. Only one process at a time signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / "ca.pem"
        self._key_file = folder / "ca.key"

    def file_of(self, name: str) -> Path:
        """Key and certificate of `name`."""
        return self._folder / f"{name}.pem"

    def make_missing(self, name: str, now: datetime) -> bool:
        """Make the authority, called `name`, unless it is there; whether it was made."""
        if self.file.exists():
            return False
        if not self._key_file.exists():
            create_secret(self._key_file, pem_of_key(ec.generate_private_key(ec.SECP256R1())))
        key = self.key()
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Vitalgrid"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {secrets.token_hex(4)}"),  # told from another one's by its name
        ])  # fmt: skip
        builder = unsigned(subject, subject, key.public_key(), key.public_key(), now, now + _AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=True), critical=True)
        write_secret(self.file, builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
        return True

    def keep(self, wanted: Wanted, now: datetime) -> bool:
        """See to it that there is a good certificate as wanted; whether it was made anew, with a new key.

        Raises IntegrityViolation or KeyMissing when one is needed and the authority cannot sign.
        """
        own = read_certificate(self.file)
        if self._is_good(wanted, own, now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.name)])
        ends = min(now + (_LONG_LIFE if wanted.lasts else _LIFE), own.not_valid_after_utc)
        if ends <= now:
            raise IntegrityViolation(f"the authority of {self.file} has ended: docs/runbook.md says how to make another")
        signing = self.key()
        builder = unsigned(subject, own.subject, key.public_key(), signing.public_key(), now, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.purposes()), critical=False)
        builder = builder.add_extension(
            x509.SubjectAlternativeName(map(_general_name, sorted(wanted.holds_for))), critical=False
        )
        certificate = builder.sign(signing, SHA256())
        write_secret(self.file_of(wanted.name), pem_of_key(key) + certificate.public_bytes(Encoding.PEM))
        return True

    def _is_good(self, wanted: Wanted, own: x509.Certificate, now: datetime) -> bool:
        try:
            content = self.file_of(wanted.name).read_bytes()
            certificate, key = x509.load_pem_x509_certificate(content), load_pem_private_key(content, None)
            certificate.verify_directly_issued_by(own)
            purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False  # not there, damaged, or of an authority of before
        is_right = set(wanted.purposes()) <= set(purposes) and wanted.holds_for <= holds_for(certificate)
        return is_right and key.public_key() == certificate.public_key() and not is_due(certificate, now)

    def key(self) -> ec.EllipticCurvePrivateKey:
        """What signs. Raises KeyMissing, IntegrityViolation."""
        try:
            key = load_pem_private_key(self._key_file.read_bytes(), None)
        except FileNotFoundError:
            raise KeyMissing(f"{self._key_file} is missing: certificates cannot be renewed, see docs/runbook.md") from None
        except (ValueError, TypeError):
            raise IntegrityViolation(f"{self._key_file} is damaged: it is no key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IntegrityViolation(f"{self._key_file} is damaged: it is no key on an elliptic curve")
        return key


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises IntegrityViolation, also when there is no such file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityViolation(f"{path} holds no certificate: {error}") from None


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate is to be renewed: two thirds of its life are over, or it has not begun."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return not begins <= now < begins + (ends - begins) * _RENEWED_AT


def holds_for(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses a certificate holds for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(_texts(names))


def _texts(names: x509.SubjectAlternativeName) -> Iterator[str]:
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))


def canonical(text: str) -> str:
    """A host name or address in the one spelling that certificates give back."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text.lower()


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def unsigned(
    subject: x509.Name, issuer: x509.Name, public: CertificatePublicKeyTypes, signing: ec.EllipticCurvePublicKey,
    now: datetime, ends: datetime,
) -> x509.CertificateBuilder:  # fmt: skip
    """What every certificate has, still to be extended and signed."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(ends)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing), critical=False)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, in clear."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
