"""How a process proves to the bus who it is, and what nats-server then lets it do (`domain.bus_rights`).

In security profile `dev` all share one token, new at each start. Otherwise each process has a certificate of the
platform's own authority, which the server maps to a user by its name; a token opens nothing then. Streams and users are
those of an account of the platform's own: what is not declared as crossing its border is unheard of outside.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from domain.bus_rights import mailroom, rights_of
from domain.hospital_systems import ANY, MAX_QUESTION_BYTES, HospitalSystem, asks_on, heard_by
from runtime.certificates import Wanted
from runtime.tls import CertificateFiles, TakenUp, Trust

ACCOUNT: Final = "VITALGRID"
WHOEVER: Final = "platform"  # who comes with the token: within accounts the server knows users and passwords alone
_INBOX: Final = "_INBOX"
_NAME_CHARS: Final = 40  # of a part of a host name there may be 63
# as `runtime.tls` has them, of TLS 1.2; by itself the server takes CBC too. Those of 1.3 are not its to choose
_CIPHERS: Final = [
    f"TLS_ECDHE_{key}_WITH_{cipher}" for key in ("ECDSA", "RSA")
    for cipher in ("AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256")
]  # fmt: skip
# of a hospital's account; subscriptions of each connection
_LIMITS: Final = {"max_connections": 8, "max_subscriptions": 8, "max_payload": MAX_QUESTION_BYTES}


class BusCertificate(msgspec.Struct, frozen=True):
    """Which process connects, its certificate with key, and the authority by which it knows the server."""

    process: str
    file: str
    authority: str

    def taken_up(self) -> TakenUp:
        """TLS of connections to the server. Raises InvalidInput when a file is not what it should be."""
        return TakenUp(Trust(self.authority).context(), CertificateFiles(self.file, self.file))

    @property
    def inbox(self) -> str:
        """Where answers to this process come, and to no other."""
        return f"{_INBOX}.{mailroom(self.process)}"


BusKey = str | BusCertificate  # a token, or who it is


def wanted_by_process(process: str) -> Wanted:
    """The certificate of a process; the name in it is the server's name for the user."""
    return Wanted(f"bus-{process}", frozenset({_user(process)}), is_server=False)


def name_of_system(key_digest: str) -> str:
    """In the certificate of a hospital's program, and the server's name for it: of the key, never of anything given."""
    return f"{key_digest[:_NAME_CHARS]}.hospitals.vitalgrid"


def _user(process: str) -> str:
    return f"{process}.vitalgrid"


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """Whoever has the token may do everything."""

    token: str

    def config(self) -> str:
        return _accounts([{"user": WHOEVER, "password": self.token}])


class CertificateAccess:
    """Whoever has a certificate of a process that is let in may do what is the process' own. No port speaks plain."""

    def __init__(self, server: Path, authority: Path, processes: Iterable[str]) -> None:
        self._server = server
        self._authority = authority
        self._processes = set(processes)
        self._systems: frozenset[HospitalSystem] = frozenset()

    def admit(self, systems: frozenset[HospitalSystem]) -> bool:
        """These programs of hospitals are let in, and no other, from the next look on; whether that is a change."""
        is_new = systems != self._systems
        self._systems = systems
        return is_new

    def let_in(self, process: str) -> bool:
        """Let one more process in, from the server's next look at its configuration on; whether it was not before."""
        is_new = process not in self._processes
        self._processes.add(process)
        return is_new

    def config(self) -> str:
        return (
            f'tls {{ cert_file: "{self._server}", key_file: "{self._server}", ca_file: "{self._authority}"\n'
            f"cipher_suites: {json.dumps(_CIPHERS)}\n"
            'verify_and_map: true, handshake_first: true, min_version: "1.2", timeout: 5 }\n'
            + _accounts([_user_config(process) for process in sorted(self._processes)], self._systems)
        )


def _accounts(users: list[dict[str, Any]], systems: Collection[HospitalSystem] = ()) -> str:
    """The platform's own account and one of each hospital that has a program here. The server reads JSON too."""
    hospitals = sorted({system.hospital_id for system in systems})
    own: dict[str, Any] = {"jetstream": "enabled", "users": users}
    if hospitals:
        own["exports"] = [export for hospital_id in hospitals for export in _exports(hospital_id)]
    accounts = {ACCOUNT: own}
    for hospital_id in hospitals:
        accounts[_account(hospital_id)] = {
            "users": [_system_config(system) for system in sorted(systems) if system.hospital_id == hospital_id],
            "imports": [
                {"service": {"account": ACCOUNT, "subject": asks_on(hospital_id, ANY)}},
                {"stream": {"account": ACCOUNT, "subject": heard_by(hospital_id, ANY)}},
            ],
            "limits": _LIMITS,
        }  # fmt: skip
    return f"accounts {json.dumps(accounts, indent=1)}\n"


def _account(hospital_id: str) -> str:
    """Of one region all hospitals' ids begin alike, so two never have one account."""
    return f"HOSPITAL_{hospital_id.replace('.', '_')}"


def _exports(hospital_id: str) -> list[dict[str, Any]]:
    to = [_account(hospital_id)]
    return [{"service": asks_on(hospital_id, ANY), "accounts": to}, {"stream": heard_by(hospital_id, ANY), "accounts": to}]


def _system_config(system: HospitalSystem) -> dict[str, Any]:
    hears = [system.hears, f"{system.inbox}.>"]
    permissions = {"publish": {"allow": [system.asks]}, "subscribe": {"allow": hears}}
    return {"user": name_of_system(system.key_digest), "permissions": permissions}


def _user_config(process: str) -> dict[str, Any]:
    says, hears = permissions_of(process)
    return {"user": _user(process), "permissions": {"publish": {"allow": says}, "subscribe": {"allow": hears}}}


def permissions_of(process: str) -> tuple[list[str], list[str]]:
    """Subjects that a process may publish to and subscribe to, those of JetStream among them."""
    rights = rights_of(process)
    says = [*rights.says, *(f"{_INBOX}.{asker}.>" for asker in rights.answers)]
    for stream in rights.reads:
        says += _reading(stream)
    for stream in rights.follows:
        says += _following(stream)
    for stream in rights.keeps:
        says += (f"$JS.API.STREAM.{order}.{stream}" for order in ("CREATE", "UPDATE"))
    says += (f"$JS.API.STREAM.PURGE.{stream}" for stream in rights.empties)
    return sorted(set(says)), sorted({*rights.hears, f"{_INBOX}.{mailroom(process)}.>"})


def _reading(stream: str) -> Iterator[str]:
    yield f"$JS.API.STREAM.INFO.{stream}"
    yield f"$JS.API.STREAM.MSG.GET.{stream}"


def _following(stream: str) -> Iterator[str]:
    yield f"$JS.API.CONSUMER.CREATE.{stream}"
    yield f"$JS.API.CONSUMER.DELETE.{stream}.*"
    yield f"$JS.FC.{stream}.>"  # the answer to the server's flow control
