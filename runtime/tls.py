"""TLS as every part of the platform speaks it: 1.2 or 1.3, forward secrecy, authenticated ciphers, peers verified.

A server takes up a renewed certificate without a restart: connections that are open go on, new ones get the new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Final

import msgspec

from domain.errors import InvalidInput

logger = logging.getLogger(__name__)

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all of this kind
_LOOK_S: Final = 30.0


class CertificateFiles(msgspec.Struct, frozen=True):
    """PEM files of a certificate with its chain, and of its key; they may be one and the same."""

    certificate: str
    key: str


class Trust(msgspec.Struct, frozen=True):
    """Whom a client believes: an authority, whose file this is; with `is_pin` the one certificate in it, whatever its
    name; without a file whom this machine trusts.
    """

    file: str = ""
    is_pin: bool = False

    def context(self) -> ssl.SSLContext:
        """For connections to whoever is believed. Raises InvalidInput when the file is none of certificates."""
        try:
            if self.is_pin:
                return _pinned(Path(self.file).read_text(encoding="ascii"))
            context = ssl.create_default_context(cafile=self.file or None)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{self.file} holds no certificate to trust: {error}") from None
        return _strict(context)


def _pinned(chain: str) -> ssl.SSLContext:
    """Of a chain only its first certificate is believed: whoever has its key is the one, under any name."""
    end = "-----END CERTIFICATE-----"
    start = chain.index("-----BEGIN CERTIFICATE-----")  # a key may stand before it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=chain[start : chain.index(end, start) + len(end)])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return _strict(context)


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    return context


class TakenUp:
    """A certificate in a context, taken up anew whenever its files change."""

    def __init__(self, context: ssl.SSLContext, files: CertificateFiles) -> None:
        """Raises InvalidInput when the files are no certificate with its key."""
        self.context = context
        self._files = files
        self._seen = _state(files)
        _load(context, files)

    @classmethod
    def server(cls, files: CertificateFiles, clients: str | None = None) -> TakenUp:
        """For a listener. `clients`: a file of authorities; who shows a certificate must have one of theirs, in good time.

        Raises InvalidInput when the file is none of certificates.
        """
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if clients is not None:
            try:
                context.load_verify_locations(clients)
            except (OSError, ValueError) as error:
                raise InvalidInput(f"{clients} holds no authority of clients: {error}") from None
            context.verify_mode = ssl.CERT_OPTIONAL
        return cls(context, files)

    def look(self) -> bool:
        """Take up what has changed; whether something was. What is no certificate with its key is said, and not taken."""
        state = _state(self._files)
        if state == self._seen:
            return False
        self._seen = state
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._files)  # a failure in the middle would spoil the one in use
            _load(self.context, self._files)
        except InvalidInput as error:
            logger.warning("a changed certificate is not taken up: %s", error)
            return False
        logger.info("a renewed certificate is taken up", extra={"file": self._files.certificate})
        return True

    async def keep(self, every_s: float = _LOOK_S) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(every_s)
            self.look()


def _load(context: ssl.SSLContext, files: CertificateFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{files.certificate} and {files.key} are no certificate with its key: {error}") from None


def _state(files: CertificateFiles) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stamp(path) for path in (files.certificate, files.key))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 (paths are text here)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
