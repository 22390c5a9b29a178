"""Security profiles: what an installation may do in clear. A setting may be stricter than its profile, never laxer.

`dev`: for one machine. API and doors answer on loopback only, and may speak without TLS there.
`standard`: API and doors speak TLS, with certificates that are given or else the platform's own (`cluster.pki`), and may
answer other machines.

Called *security* profile, because a profile alone is a topology here (`docs/clauses.toml`).
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum


class SecurityProfile(StrEnum):
    DEV = "dev"
    STANDARD = "standard"


def contradictions(profile: SecurityProfile, *, api_host: str, doors_host: str) -> list[str]:
    """Each setting that is laxer than the profile allows, as a sentence that says what was expected."""
    if profile is not SecurityProfile.DEV:
        return []
    return [
        f"{key} is {host}: expected a loopback address such as 127.0.0.1 in security profile dev; "
        f"other machines are for security profile {SecurityProfile.STANDARD}"
        for key, host in (("api.host", api_host), ("doors.host", doors_host)) if not is_loopback(host)
    ]  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name counts as elsewhere, whatever it resolves to now."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
