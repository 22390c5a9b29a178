"""Which certificates this platform serves with, and by what its clients know it: files given in the settings, else its own.

Those of its own lie in `data_dir/pki` and are signed by an authority that the first start makes (`runtime.certificates`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

from cluster.connection import bus_key
from domain.bus_rights import BUS_RIGHTS
from domain.errors import VitalgridError
from domain.instants import from_us
from domain.ports import Clock
from runtime.bus_access import BusCertificate, CertificateAccess, TokenAccess, wanted_by_process
from runtime.certificates import Authority, Wanted, canonical
from runtime.security_profile import SecurityProfile
from runtime.setting_sections import ApiSettings, DoorSettings
from runtime.settings import Settings
from runtime.tls import CertificateFiles, TakenUp, Trust

logger = logging.getLogger(__name__)

API: Final = "api"
DOORS: Final = "doors"
BUS: Final = "bus"
_RAY_CIPHER: Final = "ECDHE-ECDSA-AES256-GCM-SHA384"  # of TLS 1.2: with one alone nobody chooses a weaker one
NODE: Final = "node"  # of Ray: this machine
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (recognised, not listened on)
_KEEP_S: Final = 60.0


def authority_of(settings: Settings) -> Authority:
    return Authority(settings.data_dir.resolve() / "pki")


def devices_authority_of(settings: Settings) -> Authority:
    """Of devices' certificates alone: what it signs is believed at the doors, and nowhere else."""
    return Authority(settings.data_dir.resolve() / "pki" / "devices")


def served_with(settings: Settings, name: str) -> CertificateFiles | None:
    """What the listeners of `name` (API, DOORS) serve with; None: they speak plain."""
    given = _listener(settings, name)
    if given.tls_cert_file is not None and given.tls_key_file is not None:
        return CertificateFiles(str(given.tls_cert_file.resolve()), str(given.tls_key_file.resolve()))
    if settings.security.profile is SecurityProfile.DEV:
        return None
    own = str(authority_of(settings).file_of(name))
    return CertificateFiles(own, own)


def trust_in(settings: Settings, name: str) -> Trust | None:
    """By what commands on this machine know the listeners of `name`; None: those speak plain.

    A certificate that was given is known by itself: which names it holds for is not ours to say, and its authority may
    be unknown here.
    """
    files = served_with(settings, name)
    if files is None:
        return None
    if is_given(settings, name):
        return Trust(str(Path(files.certificate).resolve()), is_pin=True)  # read by processes that work elsewhere
    return Trust(str(authority_of(settings).file))


def listener_tls(settings: Settings, name: str) -> TakenUp | None:
    """TLS of the listeners of `name`. Raises InvalidInput when its files are no certificate with its key."""
    files = served_with(settings, name)
    if files is None:
        return None
    clients = devices_authority_of(settings).file if name == DOORS else None
    return TakenUp.server(files, None if clients is None else str(clients))


def reachable(host: str) -> str:
    """Where a listener on `host` is reached from this machine."""
    return _WILDCARDS.get(host, host)


def in_url(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def wanted_by(settings: Settings, processes: Iterable[str] = ()) -> list[Wanted]:
    """The certificates of its own that this platform needs; `processes` are those that use the bus."""
    if settings.security.profile is SecurityProfile.DEV:
        return []
    listeners = [name for name in (API, DOORS) if not is_given(settings, name)]
    return [
        *(Wanted(name, _names(settings, name), is_server=True) for name in listeners),
        Wanted(BUS, _names(settings, BUS), is_server=True),
        *map(wanted_by_process, processes),
    ]


def ray_authority_of(settings: Settings) -> Authority:
    """Ray's processes take whoever its authority signed for: it is one of its own, which signs for nobody else."""
    return Authority(settings.data_dir.resolve() / "pki" / "ray")


def ray_wanted(settings: Settings) -> Wanted:
    """The certificate of Ray on this machine; where the Ray of several machines is joined, others connect to it as well."""
    return ray_node(NODE, _HERE | frozenset(map(canonical, _machine())) if settings.hosts.ray_address else _HERE)


def ray_node(name: str, holds_for: frozenset[str]) -> Wanted:
    """The certificate of a machine of Ray's. Its processes read it when they start, and serve with it as long as they live."""
    return Wanted(name, holds_for | _HERE, is_server=True, is_peer=True, lasts=True)


def ray_tls(settings: Settings, name: str = NODE) -> dict[str, str]:
    """What Ray reads from the environment so that all its processes on a machine prove to each other who they are."""
    if settings.security.profile is SecurityProfile.DEV:
        return {}
    authority = ray_authority_of(settings)
    own = str(authority.file_of(name))
    return {
        "RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": own, "RAY_TLS_SERVER_KEY": own, "RAY_TLS_CA_CERT": str(authority.file),
        "GRPC_SSL_CIPHER_SUITES": _RAY_CIPHER,
    }  # fmt: skip


def _names(settings: Settings, name: str) -> frozenset[str]:
    host = settings.bus.host if name == BUS else _listener(settings, name).host
    hosts = _machine() if host in _WILDCARDS else [host]
    return _HERE | frozenset(map(canonical, (*hosts, *settings.security.names)))


def _machine() -> Iterator[str]:
    """The name and the addresses under which other machines reach this one."""
    if (name := socket.gethostname()) and name.isascii():
        yield name
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6) and "%" not in address.address:
                yield address.address


def _listener(settings: Settings, name: str) -> ApiSettings | DoorSettings:
    return settings.api if name == API else settings.doors


def is_given(settings: Settings, name: str) -> bool:
    """Whether the settings name the certificate of `name`."""
    return _listener(settings, name).tls_cert_file is not None


class CertificateKeeper:
    """Keeps the platform's own certificates good, and those who use the bus let in.

    Listeners take up what was renewed by themselves (`runtime.tls.TakenUp`); `renewed` is called for whoever does not.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._authority = authority_of(settings)
        self._rays = ray_authority_of(settings)
        self._processes = {*BUS_RIGHTS, *(f"host-{number}" for number in range(1, settings.hosts.count + 1))}

    def bus_access(self) -> TokenAccess | CertificateAccess:
        """For nats-server: certificates, or in profile `dev` a token that is new at each start."""
        if self._settings.security.profile is SecurityProfile.DEV:
            return TokenAccess(secrets.token_urlsafe(32))
        return CertificateAccess(self._authority.file_of(BUS), self._authority.file, self._processes)

    def let_in(self, process: str) -> BusCertificate:
        """The certificate with which `process` proves to the bus who it is."""
        self._processes.add(process)
        self._authority.keep(wanted_by_process(process), from_us(self._clock.now_us()))
        return bus_key(self._authority, process)

    def look(self) -> list[str]:
        """Make what is missing or due, the authority too at a first start; names of what was made.

        Raises IntegrityViolation or KeyMissing when something is needed and cannot be made.
        """
        wanted, now = wanted_by(self._settings, sorted(self._processes)), from_us(self._clock.now_us())
        made: list[str] = []
        if wanted:
            made += ["authority"] if self._authority.make_missing(self._settings.region_id, now) else []
            made += [one.name for one in wanted if self._authority.keep(one, now)]
            self._rays.make_missing(f"{self._settings.region_id} Ray", now)
            made += ["ray"] if self._rays.keep(ray_wanted(self._settings), now) else []
        if served_with(self._settings, DOORS) is not None:
            of_devices = devices_authority_of(self._settings)
            made += ["devices"] if of_devices.make_missing(f"{self._settings.region_id} devices", now) else []
        return made

    async def run(self, renewed: Callable[[], Awaitable[None]]) -> None:
        """Look every minute: the clock may be set, and the machine get another address."""
        is_due = False
        while True:
            await asyncio.sleep(_KEEP_S)
            try:
                if made := await asyncio.to_thread(self.look):
                    logger.info("certificates were renewed", extra={"certificates": ", ".join(made)})
                    if "ray" in made:
                        logger.warning("Ray takes up its new certificate when the platform starts: start it anew this quarter")
                    is_due = True
                if is_due:
                    await renewed()
                    is_due = False
            except (VitalgridError, OSError) as error:  # a full disk, a key taken away: what is there serves on until it ends
                logger.error("certificates cannot be renewed: %s", error)
