"""`vitalgrid witness`: witness the access logs of other platforms, on a machine of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cluster.pki import in_url
from cluster.processes import until_asked
from cluster.run_view import wide_console
from cluster.serving import serving
from cluster.witness_serving import WitnessApp
from domain.errors import InvalidInput
from domain.loopback import is_loopback
from domain.signed_notes import COSIGNATURE, PublicKey
from runtime.clock import SystemClock
from runtime.key_provider import provider_in
from runtime.log import configure_logging
from runtime.tls import CertificateFiles, TakenUp
from runtime.witness import Witness, keys_from

_console = wide_console()

Name = Annotated[str, typer.Option("--name", help="Name of this witness, for life; such as `sz.h001/witness`.")]
LogVkeys = Annotated[
    list[str], typer.Option("--log-vkey", help="A key of a log to witness (GET /api/v1/log/keys); all of them.")
]
Listen = Annotated[str, typer.Option("--listen", help="Where it is asked: host:port.")]
Folder = Annotated[Path, typer.Option("--data-dir", help="Folder for its key and for what it knows.")]
Cert = Annotated[
    Path | None, typer.Option("--tls-cert-file", help="PEM certificate with its chain; none: plain, on this machine only.")
]
Key = Annotated[Path | None, typer.Option("--tls-key-file", help="PEM private key of it.")]


def witness(
    name: Name, log_vkey: LogVkeys, listen: Listen = "127.0.0.1:8090", data_dir: Folder = Path("witness"),
    tls_cert_file: Cert = None, tls_key_file: Key = None,
) -> None:  # fmt: skip
    """Witness access logs (C2SP tlog-witness) until Ctrl-C: sign each checkpoint that continues the ones before."""
    keys = [PublicKey.parse(vkey) for vkey in log_vkey]
    if any(key.kind == COSIGNATURE for key in keys):
        raise InvalidInput("--log-vkey is the key of a witness: expected those of a log")
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise InvalidInput(f"--listen {listen!r} is no place: expected host:port")
    if (tls_cert_file is None) != (tls_key_file is None):
        raise InvalidInput("--tls-cert-file and --tls-key-file belong together: one of them is missing")
    if tls_cert_file is None and not is_loopback(host):
        raise InvalidInput("a witness that other machines reach speaks TLS: give --tls-cert-file and --tls-key-file")
    tls = TakenUp.server(CertificateFiles(str(tls_cert_file), str(tls_key_file))) if tls_cert_file else None
    configure_logging("INFO", "text")
    opened = _open(data_dir, name, log_vkey)
    try:
        asyncio.run(_serve(opened, host, int(port), tls))
    finally:
        opened.close()


def _open(folder: Path, name: str, log_vkeys: list[str]) -> Witness:
    def keys_of(origin: str) -> Sequence[PublicKey]:
        return keys_from(log_vkeys, origin)

    return Witness.open(folder, provider_in(folder / "keys"), name, keys_of, SystemClock())


async def _serve(witness: Witness, host: str, port: int, tls: TakenUp | None) -> None:
    app = WitnessApp()
    app.witness = witness
    async with serving(app, host, port, tls=tls) as bound:
        _console.print(f"witnessing at {'https' if tls else 'http'}://{in_url(host)}:{bound}", highlight=False, soft_wrap=True)
        _console.print(f"key: {witness.public.vkey}", highlight=False, markup=False, soft_wrap=True)
        await until_asked()
