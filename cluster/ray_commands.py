"""`vitalgrid ray-certificate`: what a node of Ray on another machine needs so that the platform's hosts may run there."""

from __future__ import annotations

import shlex
from typing import Annotated, Final

import typer

from cluster.command_options import DataDir
from cluster.pki import ray_authority_of, ray_node, ray_tls
from cluster.run_target import settings_of
from domain.errors import InvalidInput
from domain.instants import from_us
from runtime.certificates import canonical
from runtime.clock import SystemClock
from runtime.security_profile import SecurityProfile

_RAY_FOLDER: Final = "/var/lib/vitalgrid-ray"  # short: a socket lies in it, whose path has 107 bytes at most

Address = Annotated[str, typer.Argument(help="Under which the other nodes reach this one, such as 10.0.0.7.")]


def ray_certificate(address: Address, data_dir: DataDir = None) -> None:
    """Make the certificate of a node of Ray (hosts.ray_address) and print what has to be set there before `ray start`.

    Whoever has its file may join: copy it to that node alone, readable by Ray's user only.
    """
    settings = settings_of(data_dir)
    if settings.security.profile is SecurityProfile.DEV:
        raise InvalidInput("security profile dev has no authority, and its Ray speaks plain: expected standard or cn")
    if not address or set(address) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-"):
        raise InvalidInput(f"{address!r} is neither a host name nor an address: expected such as 10.0.0.7")
    name, now = f"node-{canonical(address)}", from_us(SystemClock().now_us())
    authority = ray_authority_of(settings)
    authority.make_missing(f"{settings.region_id} Ray", now)
    authority.keep(ray_node(name, frozenset({canonical(address)})), now)
    for variable, value in ray_tls(settings, name).items():
        typer.echo(f"export {variable}={shlex.quote(value)}")
    typer.echo("export RAY_AUTH_MODE=token")
    typer.echo("umask 077")  # Ray lets everybody write to its folders: they have to be in one that is closed
    typer.echo(f"mkdir -p -m 700 {_RAY_FOLDER}  # for `ray start --temp-dir={_RAY_FOLDER}/ray`")
