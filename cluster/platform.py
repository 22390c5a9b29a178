"""The embedded topology: everything on this machine, started in order and stopped in reverse.

bus -> store -> Ray -> supervisor and hosts restored -> doors and API open. Stopping drains the same way back:
doors close and flush, hosts commit and snapshot, the bus ends last.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import IO, Final

from sqlalchemy import Engine

from actors.host import HostPolicy
from actors.shell import HostConfig
from cluster.connection import Connection, forget_connection
from cluster.dedications import Dedications
from cluster.first_start import FirstCredentials, accounts_of_before, prepare_accounts, prepare_database, sealer_of
from cluster.hospital_access import HospitalAccess
from cluster.host_orders import HostOrders
from cluster.pki import API, DOORS, CertificateKeeper, authority_of, in_url, reachable, trust_in
from cluster.processes import ChildProcess
from cluster.ray_folder import RayFolder
from cluster.ray_hosts import RayHost, RayLauncher
from cluster.sealing import StreamSeal, file_seal, keep_off_disk, make_keys
from cluster.storage_keeping import StorageKeeper, places_of
from cluster.stream_beginnings import lead_on_streams, stream_beginnings, taken_of_streams
from cluster.supervisor import Supervisor
from domain import subjects
from domain.bus_rights import SUPERVISOR
from domain.errors import Conflict, StorageFull, Unavailable, VitalgridError
from domain.messages import StorageLevel, encode
from runtime.bus import Bus
from runtime.bus_access import BusKey, TokenAccess
from runtime.clock import SystemClock
from runtime.lake import Lake
from runtime.nats_server import NatsServer
from runtime.private_folder import make_private
from runtime.sealing import Sealer
from runtime.settings import Settings
from runtime.shard_directory import ShardDirectory
from runtime.snapshots import SnapshotStore
from runtime.sql.directory import shard_directory
from runtime.sql.engine import open_engine
from runtime.storage import StorageWatch
from runtime.tasks import end

logger = logging.getLogger(__name__)

_METRICS_S = 2.0
_NO_LONGER_PLAIN: Final = (
    "until now API and doors spoke plain, from this start on they speak TLS, and clients need pki/ca.pem"
    ' (security.profile = "dev" keeps them plain)'
)
_RAY_S = 1.0
# child -> which of the ports it tells are kept when it is started again; stopped in this order
_CHILDREN: Final[dict[str, tuple[str, ...]]] = {
    "doors": ("mqtt_port", "http_port"),
    "api": ("port",),
    "queries": (),
    "upkeep": (),
    "audit": (),  # the last of these: it takes what the others have told
}
_WITNESS: Final = "witness"  # nobody waits for it: it starts when all else answers, and ends behind the log
_WITNESS_AGAIN_S: Final = 10.0


class Platform:
    """See module. `start` and `stop` once each; `say` is told what happens, for people."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda _: None) -> None:
        self.settings = settings
        self._say = say
        self._data_dir = settings.data_dir.resolve()
        self._snapshot_dir = self._data_dir / "snapshots"
        self._log_dir = self._data_dir / "log"
        self._certificates = CertificateKeeper(settings, SystemClock())
        self._bus_access = self._certificates.bus_access()
        self._nats = NatsServer(
            self._data_dir / "nats", access=self._bus_access, host=settings.bus.host, port=settings.bus.port,
            max_file_store_bytes=2 * settings.bus.max_stream_bytes + 2**30,
        )  # fmt: skip
        self._stream_seal = StreamSeal(settings)
        self._storage = StorageWatch(places_of(settings), settings.storage.reserve_bytes)
        self._lock: IO[str] | None = None
        self._bus: Bus | None = None
        self._engine: Engine | None = None
        self.supervisor: Supervisor | None = None
        self._launcher = RayLauncher(self._host_config, RayFolder(self._data_dir / "ray-folder"), settings.hosts.ray_address)
        self._children: dict[str, ChildProcess] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.connection: Connection | None = None
        self.first = FirstCredentials()
        self._hospitals: HospitalAccess | None = None

    async def start(self) -> Connection:
        """Start everything; returns once readings are taken and questions answered.

        Raises Conflict when another platform runs in the same data directory, Unavailable when a part does not start
        (what had started is stopped again).
        """
        self._take_lock()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        assert self.connection is not None
        return self.connection

    async def _start(self) -> None:
        settings = self.settings
        await self._check_storage()
        was_plain = (self._data_dir / "nats").exists()
        if "authority" in await asyncio.to_thread(self._certificates.look):
            self._say(f"made an authority for certificates of its own: {_NO_LONGER_PLAIN if was_plain else 'a first start'}")
        keep_off_disk(settings)
        if made := await asyncio.to_thread(make_keys, settings):
            self._say(f"made the keys {' and '.join(made)}: what is sealed under them is lost without a copy of keys")
        if (key := await asyncio.to_thread(self._stream_seal.prepare)) is not None:
            self._nats.seal_store(key, os.environ)
        self._say("starting the bus (nats-server, fsync on every message)")
        await self._nats.start()
        await asyncio.to_thread(self._stream_seal.remember)
        self._bus = await Bus.connect(self._nats.url, self._bus_key(SUPERVISOR), "supervisor")
        self._say("opening the stores (business database, lake)")
        sealer = sealer_of(settings)
        self._engine = open_engine(settings.sql_url, sealer)
        await asyncio.to_thread(self._open_stores, self._engine, sealer)
        self._hospitals = await self._open_to_hospitals(self._bus, self._engine)
        directory = ShardDirectory(partial(shard_directory, self._engine))
        await self._bus.answer(subjects.DIRECTORIES, directory.answer)  # hosts may ask as they start
        seal = file_seal(settings)
        lake = await asyncio.to_thread(Lake, settings.lake_dir.resolve(), seal)
        snapshots = SnapshotStore(self._snapshot_dir, seal=seal)
        kept = (lake, snapshots, self._engine, settings.audit_dir)
        await self._ensure_streams(self._bus, await asyncio.to_thread(stream_beginnings, *kept))
        for stream in await lead_on_streams(self._bus, await asyncio.to_thread(taken_of_streams, *kept)):
            self._say(f"the end of stream {stream} is lost: its files were damaged (log/up.log says how much)")
        began = (await self._bus.stream_state(subjects.READINGS_STREAM)).first_sequence
        await asyncio.to_thread(snapshots.forget_given, began)
        dedications = Dedications(self._engine)
        dedicated = await dedications.look()
        beside = f" and {len(dedicated)} dedicated ones" if dedicated else ""
        self._say(f"starting Ray and {settings.hosts.count} hosts{beside} for {settings.shards} shards")
        await asyncio.to_thread(self._launcher.start)
        self.supervisor = Supervisor(
            bus=self._bus, lake=lake, shards=settings.shards, host_count=settings.hosts.count,
            heartbeat_timeout_s=settings.hosts.heartbeat_timeout_s, launch=self._launch,
            dedicated=dedicated,
        )  # fmt: skip
        await self.supervisor.start()
        await self._bus.answer(subjects.HOST_ORDERS, HostOrders(self.supervisor).answer)
        self._remember()
        self._say("opening the doors (MQTT, HTTP) and the API")
        await asyncio.gather(*(self._start_child(name) for name in _CHILDREN))
        self._remember()
        self._tasks = [
            asyncio.create_task(self._keep_bus(), name="keep nats-server"),
            asyncio.create_task(self._keep_ray(), name="keep Ray"),
            asyncio.create_task(self._certificates.run(self._nats.reload), name="keep certificates"),
            asyncio.create_task(dedications.run(self.supervisor), name="watch dedications"),
            asyncio.create_task(self._start_witness(), name="start the witness"),
            asyncio.create_task(self._keep_remembering(), name="remember pids"),
            asyncio.create_task(StorageKeeper(self._bus, self._storage, self._nats.stop).run(), name="watch storage"),
        ]
        if self._hospitals is not None:
            self._tasks.append(asyncio.create_task(self._hospitals.run(), name="let hospitals in"))

    async def _open_to_hospitals(self, bus: Bus, engine: Engine) -> HospitalAccess | None:
        """Let their programs come to the bus; None where nobody comes by certificate."""
        if isinstance(self._bus_access, TokenAccess):
            return None
        settings = self.settings
        hospitals = HospitalAccess(
            engine,
            self._bus_access,
            authority_of(settings),
            SystemClock(),
            settings.bus.certificate_days,
            self._nats.reload_wholly,
        )
        await bus.answer(subjects.BUS_ACCESS, hospitals.answer)
        return hospitals

    async def _check_storage(self) -> None:
        """Raises StorageFull, with every place that cannot be written, before anything is begun that would break halfway."""
        states = await asyncio.to_thread(self._storage.look)
        if full := [state.says for state in states if state.level is StorageLevel.FULL]:
            raise StorageFull(f"{'; '.join(full)}: make room, or change storage.reserve_bytes")
        for state in states:
            if state.level is not StorageLevel.OK:
                self._say(f"{state.says}: no readings are taken until there is more")

    async def _ensure_streams(self, bus: Bus, beginnings: dict[str, int]) -> None:
        settings = self.settings.bus
        await bus.ensure_streams(
            max_stream_bytes=settings.max_stream_bytes, retention_s=settings.stream_retention_h * 3600,
            duplicate_window_s=settings.duplicate_window_s, beginnings=beginnings,
        )  # fmt: skip

    async def stop(self) -> None:
        """Stop in reverse order. Safe to call after a failed start."""
        await end(*self._tasks)
        for child in self._children.values():
            await child.stop()
        if self.supervisor is not None:
            await self.supervisor.stop()
        await asyncio.to_thread(self._launcher.stop)
        if self._bus is not None:
            with contextlib.suppress(VitalgridError, OSError):
                await self._bus.close()
        if self._engine is not None:
            self._engine.dispose()
        await self._nats.stop()
        forget_connection(self._data_dir)
        if self._lock is not None:
            self._lock.close()

    def _take_lock(self) -> None:
        make_private(self._data_dir)
        self._lock = (self._data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise Conflict(f"another platform runs in {self._data_dir}: stop it, or choose another --data-dir") from None

    def _open_stores(self, engine: Engine, sealer: Sealer) -> None:
        prepare_database(engine, self.settings, sealer)
        self.first = prepare_accounts(engine, self.settings)
        for says in accounts_of_before(engine, self.settings):
            self._say(says)

    def _bus_key(self, process: str) -> BusKey:
        """How a process is to prove to the bus who it is."""
        if isinstance(self._bus_access, TokenAccess):
            return self._bus_access.token
        return self._certificates.let_in(process)

    async def _launch(self, name: str) -> RayHost:
        """The bus lets a host in before it comes."""
        if not isinstance(self._bus_access, TokenAccess) and self._bus_access.let_in(name):
            with contextlib.suppress(Unavailable):  # that it does not say so: whether it lets the host in the host will see
                await self._nats.reload()
        return await self._launcher.launch(name)

    def _host_config(self, name: str) -> HostConfig:
        settings = self.settings
        return HostConfig(
            name=name, nats_url=self._nats.url, bus_key=self._bus_key(name),
            lake_dir=settings.lake_dir.resolve(), snapshot_dir=self._snapshot_dir,
            keys_dir=settings.keys_dir.resolve(), seals_files=settings.seals_files,
            policy=HostPolicy(
                turn_readings=settings.hosts.turn_readings, flush_interval_s=settings.lake.flush_interval_s,
                flush_rows=settings.lake.flush_rows, snapshot_interval_s=settings.hosts.snapshot_interval_s,
                live_horizon_s=settings.hosts.live_horizon_s, max_uncommitted_rows=settings.hosts.max_uncommitted_rows,
            ),
            log_level=settings.log_level, log_format=settings.log_format, log_file=self._log_dir / "hosts.log",
        )  # fmt: skip

    async def _start_child(self, name: str) -> None:
        environment = {"VITALGRID_DATA_DIR": str(self._data_dir)}
        child = ChildProcess(f"cluster.{name}_process", environment, self._log_dir / f"{name}.log")
        self._children[name] = child
        told = await child.start()
        child.pin({f"VITALGRID_{name.upper()}__{port.upper()}": str(told[port]) for port in _CHILDREN.get(name, ())})

    async def _start_witness(self) -> None:
        while self.settings.audit.own_witness:
            try:
                await self._start_child(_WITNESS)
                return
            except (Unavailable, OSError) as error:
                logger.error("the witness of the access log does not start: %s", error)
                await asyncio.sleep(_WITNESS_AGAIN_S)

    def _remember(self) -> None:
        """Write `run.json`: children read it to find the bus, commands to find everything."""
        doors = self._children["doors"].told if "doors" in self._children else {}
        api = self._children["api"].told if "api" in self._children else {}
        assert self.supervisor is not None
        settings = self.settings
        self.connection = Connection(
            pid=os.getpid(), nats_url=self._nats.url, **self._bus_keys(),
            api_url=self._api_url(api["port"]) if api else "", api_trust=trust_in(settings, API),
            mqtt_host=reachable(settings.doors.host), mqtt_port=doors.get("mqtt_port", 0), http_port=doors.get("http_port", 0),
            doors_trust=trust_in(settings, DOORS), host_pids=self.supervisor.host_pids, process_pids=self._process_pids(),
        )  # fmt: skip
        self.connection.save(self._data_dir)

    def _bus_keys(self) -> dict[str, str]:
        """Where `Connection.bus_key` finds them."""
        if isinstance(self._bus_access, TokenAccess):
            return {"nats_token": self._bus_access.token}
        return {"nats_token": "", "pki_dir": str(authority_of(self.settings).file.parent)}

    def _api_url(self, port: int) -> str:
        scheme = "http" if trust_in(self.settings, API) is None else "https"
        return f"{scheme}://{in_url(reachable(self.settings.api.host))}:{port}"

    def _process_pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()} | {"nats-server": self._nats.pid or 0}

    async def _keep_remembering(self) -> None:
        """Processes come and go: keep `run.json` true, and let the API know what hosts measure."""
        while True:
            await asyncio.sleep(_METRICS_S)
            previous = self.connection
            assert self.supervisor is not None
            assert self._bus is not None
            pids = (self.supervisor.host_pids, self._process_pids())
            if previous is None or (previous.host_pids, previous.process_pids) != pids:
                with contextlib.suppress(OSError):  # a full disk; it is tried again
                    self._remember()
            with contextlib.suppress(OSError):
                await self._bus.core_publish(subjects.SHARDS_HELD, encode(self.supervisor.shards_held()))

    async def _keep_bus(self) -> None:
        was_running = True
        while True:
            await asyncio.sleep(0.2)
            if self._nats.is_running():
                was_running = True
                continue
            if was_running:  # said once, however often it has to be tried
                logger.warning("nats-server ended and is started again")
            was_running = False
            with contextlib.suppress(VitalgridError, OSError):
                await self._nats.start()
                self._remember()

    async def _keep_ray(self) -> None:
        while True:
            await asyncio.sleep(_RAY_S)
            try:
                await self._launcher.revive()
            except Exception:  # Ray has many ways to fail to start; without it no host can be replaced
                logger.exception("Ray could not be started again; it is tried again")
