"""Hosts: the processes that share the shards."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from domain.host_orders import HostState, HostsView


class HostOut(BaseModel):
    name: str
    pid: int
    state: HostState = Field(description="working; draining (gives its shards to others); leaving (that, then it ends).")
    shards: list[int]
    devices: int
    lag: int = Field(description="Messages of its shards that wait for it.")
    silent_s: float = Field(description="Seconds since it was last heard.")


class HostsOut(BaseModel):
    wanted: int = Field(description="How many hosts are kept alive; a lost one is replaced.")
    hosts: list[HostOut]
    moving: list[int] = Field(description="Shards on their way to a host.")
    dedicated: list[int] = Field(description="Shards that are to have a host with nothing else on it, beside the others.")

    @classmethod
    def of(cls, view: HostsView) -> Self:
        hosts = [HostOut(**{name: getattr(host, name) for name in host.__struct_fields__}) for host in view.hosts]
        return cls(wanted=view.wanted, hosts=hosts, moving=view.moving, dedicated=view.dedicated)
