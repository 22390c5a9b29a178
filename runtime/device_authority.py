"""Certificates of devices and gateways: what they ask with (PKCS #10), and the authority that answers. X.509. Clause 5.4a.

It is an authority of its own, in a folder of its own: the bus and the platform's own servers do not believe it, whatever
name a certificate bears. A certificate says who it is for, for people to read; who somebody is at a door is known by the
fingerprint alone (`runtime.sql.credentials`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from domain.enrolment import MAX_REQUEST_BYTES, fingerprint_of
from domain.errors import Conflict, IntegrityViolation, InvalidInput
from domain.instants import from_us, to_us
from runtime.certificates import Authority, key_usage, pem_of_key, read_certificate, unsigned

_PEM: Final = b"-----BEGIN"
_RSA_BITS: Final = range(2048, 4097)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)


@dataclass(frozen=True, slots=True)
class Request:
    """A public key, whose holder has proved to have the private one."""

    public: CertificatePublicKeyTypes
    key_digest: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate as it is kept: PEM, without its chain."""

    pem: str
    fingerprint: str
    serial: str
    key_digest: str
    ends_us: int


def read_request(data: bytes) -> Request:
    """A certification request, PEM or DER. Raises InvalidInput: also when it is not signed by its own key, or that is weak.

    Nothing else that it asks for is looked at: name and purpose are ours to say.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise InvalidInput(f"the certification request is larger than the {MAX_REQUEST_BYTES} bytes that are taken")
    try:
        load = x509.load_pem_x509_csr if data.lstrip().startswith(_PEM) else x509.load_der_x509_csr
        asked = load(data)
        public = asked.public_key()
        _check_strength(public)  # before anything is computed with a key that a stranger chose
        is_its_own = asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise InvalidInput("the body is no certification request: expected PKCS #10, as `openssl req -new` makes it") from None
    if not is_its_own:
        raise InvalidInput("the certification request is not signed by the key that it is for")
    return Request(public, _key_digest(public))


def _check_strength(public: object) -> None:
    is_good = isinstance(public, ed25519.Ed25519PublicKey)
    if isinstance(public, ec.EllipticCurvePublicKey):
        is_good = isinstance(public.curve, _CURVES)
    elif isinstance(public, rsa.RSAPublicKey):
        is_good = public.key_size in _RSA_BITS
    if not is_good:
        raise InvalidInput("keys of this kind are not taken: expected P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits")


def _key_digest(public: CertificatePublicKeyTypes) -> str:
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class DeviceAuthority:
    """The authority of one folder, which `runtime.certificates.Authority` makes; read anew for each `signer`."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def signer(self) -> Signer:
        """Raises Conflict where there is none, KeyMissing or IntegrityViolation where it is spoilt."""
        file = self._authority.file
        if not file.exists():
            raise Conflict("no certificates are made here: the doors speak no TLS, and devices have tokens (docs/howto)")
        return Signer(read_certificate(file), self._authority.key())


class Signer:
    """The authority, opened for a moment."""

    def __init__(self, own: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._own = own
        self._key = key
        self.chain = own.public_bytes(Encoding.PEM).decode()

    def issue(
        self, asked: Request, hospital_id: str, device_id: str, now_us: int, life_us: int, *, host_name: str | None = None
    ) -> Issued:
        """A certificate of a device, for no longer than the authority itself lives; `host_name`: for which it holds."""
        now, wanted = from_us(now_us), from_us(now_us + life_us)
        ends = min(wanted, self._own.not_valid_after_utc).replace(microsecond=0)
        if ends <= now:
            raise IntegrityViolation("the authority has ended: docs/runbook.md says how to make another")
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, hospital_id[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, device_id),
        ])  # fmt: skip
        builder = unsigned(subject, self._own.subject, asked.public, self._key.public_key(), now, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        if host_name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name)]), critical=False)
        made = builder.sign(self._key, SHA256())
        der, pem = made.public_bytes(Encoding.DER), made.public_bytes(Encoding.PEM).decode()
        return Issued(pem, fingerprint_of(der), f"{made.serial_number:x}", asked.key_digest, to_us(ends))

    def make(self, hospital_id: str, device_id: str, now_us: int, life_us: int) -> tuple[str, Issued]:
        """A key made here, PEM, and its certificate: for devices that cannot make one themselves."""
        key = ec.generate_private_key(ec.SECP256R1())
        asked = Request(key.public_key(), _key_digest(key.public_key()))
        return pem_of_key(key).decode(), self.issue(asked, hospital_id, device_id, now_us, life_us)
