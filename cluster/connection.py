"""How commands and child processes find a running platform: `data_dir/run.json`, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from domain.errors import Forbidden, NotFound, Unavailable
from runtime.bus_access import BusCertificate, BusKey, wanted_by_process
from runtime.certificates import Authority
from runtime.durable import write_secret
from runtime.tls import Trust

_FILE: Final = "run.json"
_SECRETS: Final = Path("secrets")


class Connection(msgspec.Struct, frozen=True):
    """Where everything is. Holds the bus token, if there is one: never logged, file mode 0600."""

    pid: int
    nats_url: str
    nats_token: str  # empty where each process has a certificate, in `pki_dir`
    api_url: str = ""
    mqtt_host: str = ""
    mqtt_port: int = 0
    http_port: int = 0
    api_trust: Trust | None = None  # by what the API is known; None: it speaks plain
    doors_trust: Trust | None = None
    pki_dir: str = ""
    host_pids: dict[str, int] = {}
    process_pids: dict[str, int] = {}

    def bus_key(self, process: str) -> BusKey:
        """How `process` (of `domain.bus_rights`) proves to the bus who it is."""
        return bus_key(Authority(Path(self.pki_dir)), process) if self.pki_dir else self.nats_token

    def save(self, data_dir: Path) -> None:
        """Write atomically, so that a reader sees the old file or the new one."""
        write_secret(data_dir / _FILE, msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def load(cls, data_dir: Path) -> Connection:
        """The connection of the platform running in `data_dir`; raises Unavailable when none runs."""
        try:
            connection = msgspec.json.decode((data_dir / _FILE).read_bytes(), type=cls)
        except FileNotFoundError:
            raise Unavailable(f"no platform runs in {data_dir}: start one with `vitalgrid up`") from None
        if not Path(f"/proc/{connection.pid}").exists():
            raise Unavailable(f"the platform of {data_dir} is not running any more: start it with `vitalgrid up`")
        return connection


def bus_key(authority: Authority, process: str) -> BusCertificate:
    """The certificate of a process, which is made by `cluster.pki`."""
    return BusCertificate(process, str(authority.file_of(wanted_by_process(process).name)), str(authority.file))


def forget_connection(data_dir: Path) -> None:
    (data_dir / _FILE).unlink(missing_ok=True)


def check_owner(data_dir: Path, order: str) -> None:
    """Files that another user makes among the platform's would keep it from starting. Raises NotFound, Forbidden."""
    try:
        owner = data_dir.stat().st_uid
    except FileNotFoundError:
        raise NotFound(f"there is no platform in {data_dir}") from None
    if owner != os.geteuid():
        raise Forbidden(f"{data_dir} is user {owner}'s: {order} as that user")


def admin_token_file(data_dir: Path) -> Path:
    """Where the token of commands on this machine is left: of a local operator, in profile `dev` of an administrator."""
    return data_dir / _SECRETS / "admin-token"


def first_password_file(data_dir: Path) -> Path:
    """Where the first user's password is left until it was changed."""
    return data_dir / _SECRETS / "first-password"
