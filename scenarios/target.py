"""The platform a run is played against: addresses and what is known of its processes. Plain values, wired in cluster/."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.bus_access import BusKey
from runtime.tls import Trust


@dataclass(frozen=True, slots=True)
class Target:
    """Where the platform is.

    Only `api_url`, `token` and the MQTT address are needed to play. With `data_dir` and the bus, for a platform on
    this machine, the ledger can be closed, hosts can be killed and processes measured; without them those figures
    are "not measured".
    """

    api_url: str
    token: str = field(repr=False)
    mqtt_host: str
    mqtt_port: int
    region_id: str = "sz"
    data_dir: Path | None = None
    nats_url: str | None = None
    bus_key: BusKey | None = field(default=None, repr=False)
    api_trust: Trust | None = None
    doors_trust: Trust | None = None  # None: the doors speak plain
    pids: Callable[[], dict[str, int]] = dict  # role -> process now; hosts are `host:<name>`

    @property
    def lake_dir(self) -> Path | None:
        return self.data_dir / "lake" / "readings" if self.data_dir else None

    def api_tls(self) -> ssl.SSLContext | bool:
        """What httpx takes as `verify`."""
        return self.api_trust.context() if self.api_trust is not None else True

    def doors_tls(self) -> ssl.SSLContext | None:
        """What a device client takes as `tls`."""
        return self.doors_trust.context() if self.doors_trust is not None else None

    def host_pids(self) -> dict[str, int]:
        """Host name -> process, where they are known."""
        return {role.removeprefix("host:"): pid for role, pid in self.pids().items() if role.startswith("host:")}
