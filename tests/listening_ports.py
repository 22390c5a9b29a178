"""What the ports of a running platform say to whoever speaks plain to them, and to whoever shows no certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

import httpx
import psutil

from runtime.tls import Trust
from tests.running_platform import RunningPlatform

TLS_ALERT: Final = b"\x15"
PLAIN: Final = {
    "ray::RuntimeEnvAgent": "Ray's own agent for packages, on loopback: HTTP alone, and nothing without Ray's token"
}


def assert_every_port_is_declared_and_speaks_tls(platform: RunningPlatform) -> None:
    """But for those of `PLAIN`, which have a reason and answer nobody."""
    found, own = listeners(platform), set(declared(platform).values())
    assert own <= set(found)
    undeclared = {port: who for port, who in found.items() if port not in own and not is_rays(who[1])}
    assert undeclared == {}
    assert {address.removeprefix("::ffff:") for address, _ in found.values()} == {"127.0.0.1"}
    plain = {port: name for port, (_, name) in found.items() if answer_in_clear(port)[:1] not in (b"", TLS_ALERT)}
    assert set(plain.values()) <= set(PLAIN)
    for port in plain:
        assert b" 401 " in answer_in_clear(port).partition(b"\r\n")[0]
    rays = platform.data_dir / "pki" / "ray"
    for port in set(found) - set(plain) - own:  # Ray's: they take whoever has a certificate of its authority alone
        as_node = Trust(str(rays / "ca.pem")).context()
        as_node.set_alpn_protocols(["h2"])  # without it nobody is answered
        assert says_nothing(port, as_node)
        as_node.load_cert_chain(rays / "node.pem")
        assert handshake(port, as_node) in ("TLSv1.2", "TLSv1.3")
        assert not says_nothing(port, as_node)


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    """The version of TLS that is spoken; raises what a client meets."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


def declared(platform: RunningPlatform) -> dict[str, int]:
    connection = platform.connection
    api_port = httpx.URL(connection.api_url).port
    assert api_port is not None
    bus_port = int(connection.nats_url.rpartition(":")[2])
    return {"api": api_port, "mqtt": connection.mqtt_port, "http": connection.http_port, "bus": bus_port}


def listeners(platform: RunningPlatform) -> dict[int, tuple[str, str]]:
    """Port -> address and who listens, of everything that the platform started."""
    root = psutil.Process(platform.process.pid)
    who = {child.pid: child.name() for child in root.children(recursive=True)} | {root.pid: "supervisor"}
    who |= {pid: name for name, pid in platform.connection.process_pids.items()}
    return {
        one.laddr.port: (one.laddr.ip, who[one.pid]) for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.pid in who
    }  # fmt: skip


def answer_in_clear(port: int) -> bytes:
    """What a port says to whoever speaks plain HTTP to it; nothing, when it ends the connection or waits for TLS."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            return plain.recv(1024)
    return b""


def says_nothing(port: int, context: ssl.SSLContext) -> bool:
    """Whether a port ends the connection of whoever shows no certificate."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                return wrapped.recv(1024) == b""
        except (ssl.SSLError, ConnectionError):
            return True


def is_rays(name: str) -> bool:
    """Whether a process listens as one of Ray's; the supervisor does, as its driver, and so does each host."""
    return name in {"gcs_server", "raylet", "supervisor"} or name.startswith("ray::")
