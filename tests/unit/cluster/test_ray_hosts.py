"""Launching hosts while Ray comes and goes. Ray itself is left out: what it does is in the fault suite."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from cluster import ray_folder, ray_hosts
from cluster.ray_folder import RayFolder
from cluster.ray_hosts import RayLauncher, start_ray
from domain.errors import Unavailable

NODES = ("a" * 56, "b" * 56)


class Actor:
    """One that answers `start` when it is told to, as the class and as its instance."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked = asyncio.Event()
        self.nodes: list[str] = []
        self.start = self

    def options(self, **options: object) -> Actor:
        self.nodes.append(options["scheduling_strategy"].node_id)
        return self

    def remote(self, *config: object) -> object:
        if config:
            return self
        self.asked.set()
        return self.answer


@pytest.fixture
async def ray(monkeypatch, tmp_path):
    """Whether Ray is alive (a list of one), and the actor that is launched."""
    alive, actor = [True], Actor()
    monkeypatch.setattr(ray_hosts, "HostActor", actor)
    monkeypatch.setattr(ray_folder, "_temporary", lambda: tmp_path)
    monkeypatch.setattr(ray_hosts, "is_ray_alive", lambda: alive[0])
    monkeypatch.setattr(ray_hosts, "alive_nodes", lambda: [*NODES])
    monkeypatch.setattr(ray_hosts, "stop_ray", lambda: None)
    monkeypatch.setattr(ray_hosts, "start_ray", lambda *_: alive.__setitem__(0, True))
    return alive, actor


def launcher_of(folder: Path) -> RayLauncher:
    return RayLauncher(lambda name: name, RayFolder(folder / "note"))


async def test_a_host_is_launched_once_it_has_said_its_pid(ray, tmp_path):
    _, actor = ray
    launching = asyncio.create_task(launcher_of(tmp_path).launch("host-1"))
    await actor.asked.wait()
    actor.answer.set_result(7)
    assert (await launching).pid == 7


async def test_a_host_that_was_starting_when_ray_died_is_given_up_at_once(ray, tmp_path):
    alive, actor = ray
    launcher = launcher_of(tmp_path)
    launching = asyncio.create_task(launcher.launch("host-1"))
    await actor.asked.wait()
    alive[0] = False
    assert await launcher.revive()
    with pytest.raises(Unavailable, match="Ray died"):
        async with asyncio.timeout(5):
            await launching


async def test_hosts_start_on_the_node_with_the_fewest(ray, tmp_path):
    _, actor = ray
    actor.answer.set_result(os.getpid())
    launcher = launcher_of(tmp_path)
    await asyncio.gather(*(launcher.launch(f"host-{number}") for number in range(4)))
    assert sorted(actor.nodes) == sorted(NODES * 2)
    await launcher.launch("host-1")
    assert actor.nodes[4] == actor.nodes[1]


async def test_a_host_that_does_not_start_in_time_or_breaks_is_said_in_words(ray, monkeypatch, tmp_path):
    _, actor = ray
    monkeypatch.setattr(ray_hosts, "_LAUNCH_S", 0.01)
    with pytest.raises(Unavailable, match=r"did not start within 0\.01 s"):
        await launcher_of(tmp_path).launch("host-1")
    actor.answer = asyncio.get_running_loop().create_future()
    actor.answer.set_exception(RayActorError())
    with pytest.raises(Unavailable, match="did not start: RayActorError"):
        await launcher_of(tmp_path).launch("host-1")


def test_a_ray_that_does_not_start_is_said_in_one_sentence(monkeypatch):
    def times_out(**_options):
        raise Exception("The current node timed out during startup.\nThis could happen because …")

    monkeypatch.setattr(ray_hosts.ray, "init", times_out)
    with pytest.raises(Unavailable, match=r"^Ray did not start: The current node timed out during startup\. This could"):
        start_ray(None)
    with pytest.raises(Unavailable, match=r"^Ray did not start \(10\.0\.0\.1:6379\)"):
        start_ray(None, "10.0.0.1:6379")
