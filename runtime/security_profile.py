"""Security profiles: what an installation may do in clear. A setting may be stricter than its profile, never laxer.

`dev`: for one machine. API and doors answer on loopback only, and may speak without TLS there.
`standard`: doors may answer other machines, with TLS; the API, which has no TLS of its own yet, stays on loopback
(a reverse proxy on this machine may lend it some). Stored passwords are as slow to try as is asked today.

Called *security* profile, because a profile alone is a topology here (`docs/clauses.toml`).
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Final

LEAST_ITERATIONS: Final = 600_000  # as OWASP's password storage cheat sheet asks of PBKDF2 with a hash of 256 bits


class SecurityProfile(StrEnum):
    DEV = "dev"
    STANDARD = "standard"


def contradictions(
    profile: SecurityProfile, *, api_host: str, doors_host: str, doors_speak_tls: bool, password_iterations: int
) -> list[str]:
    """Each setting that is laxer than the profile allows, as a sentence that says what was expected."""
    found = []
    if not is_loopback(api_host):
        found.append(f"api.host is {api_host}: the API speaks without TLS, expected a loopback address such as 127.0.0.1")
    if profile is SecurityProfile.DEV and not is_loopback(doors_host):
        found.append(
            f"doors.host is {doors_host}: expected a loopback address in security profile dev; "
            f"other machines are for security profile {SecurityProfile.STANDARD}"
        )
    if profile is SecurityProfile.STANDARD and not doors_speak_tls:
        found.append(f"doors.tls_cert_file and doors.tls_key_file are not both set: security profile {profile} expects TLS")
    if profile is SecurityProfile.STANDARD and password_iterations < LEAST_ITERATIONS:
        given = f"security.password_iterations is {password_iterations:,}"
        found.append(f"{given}: security profile {profile} expects {LEAST_ITERATIONS:,} or more")
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name counts as elsewhere, whatever it resolves to now."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
