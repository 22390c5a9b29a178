"""Links that the platform opens itself, as settings name them: each speaks TLS 1.2 or newer and verifies who answers.

Plain is a link within this machine alone, and only in security profile `dev`. A Unix socket is no link between machines, in
any profile: nobody but this machine's users is at its other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from domain.loopback import is_loopback
from runtime.security_profile import SecurityProfile

if TYPE_CHECKING:
    from sqlalchemy import URL

_VERIFIED: Final = "verify-full"  # `verify-ca` believes whoever has any certificate of that authority
_NEW_ENOUGH: Final = ("TLSv1.2", "TLSv1.3")
_SOCKET: Final = ("/", "@")  # a folder, or a name in the abstract namespace


def plain_links(profile: SecurityProfile, addresses: Mapping[str, str], databases: Mapping[str, str]) -> list[str]:
    """Each link that is laxer than the profile allows, as a sentence. Never shows more of an address than where it leads.

    `addresses`: setting -> URL of HTTP; `databases`: setting -> SQLAlchemy URL.
    """
    found = [_of_http(profile, setting, url) for setting, url in addresses.items()]
    found += [_of_database(profile, setting, url) for setting, url in databases.items()]
    return [problem for problem in found if problem is not None]


def _wants(profile: SecurityProfile) -> str:
    if profile is SecurityProfile.DEV:
        return f"plain links leave no machine in security profile {profile} either: expected"
    return f"security profile {profile} expects"


def _of_http(profile: SecurityProfile, setting: str, url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return f"{setting} is no address: expected https://host/path"
    if parts.scheme == "https" and host:
        return None
    if profile is SecurityProfile.DEV and parts.scheme == "http" and is_loopback(host):
        return None
    return f"{setting} is {parts.scheme}://{host}: {_wants(profile)} https://"


def _of_database(profile: SecurityProfile, setting: str, url: str) -> str | None:
    from sqlalchemy import make_url  # noqa: PLC0415 (most processes have no database, and importing this takes time and memory)
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parsed = make_url(url)
    except ArgumentError:
        return f"{setting} is no address of a database: expected postgresql://user@host/name?sslmode={_VERIFIED}"
    if parsed.get_backend_name() != "postgresql":
        return None  # SQLite is a file
    hosts = _hosts(parsed)
    if hosts and all(host.startswith(_SOCKET) for host in hosts):
        return None
    if profile is SecurityProfile.DEV and all(map(is_loopback, hosts)):
        return None
    found = []
    if (mode := _given(parsed, "sslmode")) != _VERIFIED:
        found.append(f"sslmode={mode or 'none'}")
    if (oldest := _given(parsed, "ssl_min_protocol_version")) and oldest not in _NEW_ENOUGH:
        found.append(f"ssl_min_protocol_version={oldest}")
    if not found:
        return None
    where = f"PostgreSQL at {', '.join(hosts)}" if hosts else "PostgreSQL at no named place"
    return (
        f"{setting} is {where} with {' and '.join(found)}: {_wants(profile)} sslmode={_VERIFIED} with TLS 1.2 or "
        "newer, or a Unix socket, such as ?host=/run/postgresql"
    )


def _hosts(url: URL) -> list[str]:
    """Where libpq would go by this URL alone; none: wherever its environment says."""
    given = [*_texts(url, "hostaddr"), *(_texts(url, "host") or ([url.host] if url.host else []))]
    return [host for text in given for host in text.split(",")]


def _given(url: URL, name: str) -> str:
    """What stands there, several values as the text that none of them is."""
    return ", ".join(_texts(url, name))


def _texts(url: URL, name: str) -> list[str]:
    value = url.query.get(name, ())
    return [value] if isinstance(value, str) else list(value)
