"""Lets programs of hospitals come to the bus, as the business database says it, and signs certificates that they are to have.

The key of the platform's authority is read here: the code of the API, which is asked for a certificate, signs none, and so
none that bears the name of a process of the platform.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sqlalchemy import Engine

from domain.errors import IntegrityViolation, VitalgridError
from domain.instants import DAY_US
from domain.ports import Clock
from runtime.bus_access import CertificateAccess, name_of_system
from runtime.certificates import Authority, read_certificate
from runtime.device_authority import Signer, read_request
from runtime.sql.bus_certificates import Signed, let_in, sign_missing

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0


class HospitalAccess:
    """`answer` is a handler for `Bus.answer`; `run` beside it. `reload` has the server look at who is let in.

    While the database is away who was let in stays so.
    """

    def __init__(
        self, engine: Engine, access: CertificateAccess, authority: Authority, clock: Clock, life_days: float,
        reload: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._access = access
        self._authority = authority
        self._clock = clock
        self._life_us = round(life_days * DAY_US)
        self._reload = reload
        self._looking = asyncio.Lock()
        self._unsound: frozenset[int] = frozenset()
        self._unsigned: dict[int, str] = {}  # by number, and why
        self._is_due = False  # the server has not looked since that changed

    async def look(self) -> None:
        """Sign what was asked for, and let in whoever is to be now. Raises what the database or the server raises.

        A certificate that cannot be signed is said in the log once; it is tried again at each look, and keeps nobody else.
        """
        async with self._looking:
            now_us = self._clock.now_us()
            try:
                self._tell(await asyncio.to_thread(sign_missing, self._engine, self._sign, now_us=now_us))
            finally:  # a certificate that cannot be made keeps nobody in who is to go
                systems, unsound = await asyncio.to_thread(let_in, self._engine, now_us=now_us)
                for number in sorted(unsound - self._unsound):
                    logger.error("a certificate's row is none that we wrote: it lets nobody in", extra={"certificate": number})
                self._unsound = unsound
                self._is_due = self._access.admit(systems) or self._is_due
                if self._is_due:
                    await self._reload()
                    self._is_due = False

    def _tell(self, failed: Mapping[int, VitalgridError]) -> None:
        unsigned = {number: str(error) for number, error in failed.items()}
        for number, why in unsigned.items():
            if self._unsigned.get(number) != why:
                logger.error("a certificate for the bus cannot be signed: %s", why, extra={"certificate": number})
        self._unsigned = unsigned

    async def answer(self, _payload: bytes, _subject: str) -> bytes:
        """Look now. Raises as `look` does."""
        await self.look()
        return b""

    async def run(self) -> None:
        """Look for ever: certificates end, and tokens are revoked. That it fails is said once, until it works again."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 (a database that is away or busy in any way: it is asked again)
                if said != (said := str(error)):
                    logger.error("who of the hospitals may come to the bus cannot be brought up to date: %s", error)
            else:
                said = ""

    def _sign(self, hospital_id: str, key_digest: str, request: str) -> Signed:
        asked = read_request(request.encode())
        if asked.key_digest != key_digest:  # whoever changed one of them gets nothing signed
            raise IntegrityViolation("a certificate's request is not of the key that it was noted for: it is not signed")
        signer = Signer(read_certificate(self._authority.file), self._authority.key())
        name = name_of_system(asked.key_digest)
        made = signer.issue(asked, hospital_id, name, self._clock.now_us(), self._life_us, host_name=name)
        return Signed(made.pem + signer.chain, made.fingerprint, made.ends_us)
