"""Accounts of least privilege on PostgreSQL: what each process may do in the business database, as a table.

The platform itself (`vitalgrid up`) owns the schema and migrates it. Its other processes need no more than is here: none
may change the schema, nobody may change what was notified or written in the log, the API deletes from the tables that are
named here and from no other, and doors learn nothing of a patient but the number that readings bear. Hosts, audit and
queries need no account; upkeep, which deletes by rule and erases persons, uses the platform's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from domain.errors import InvalidInput
from runtime.sql.tables import metadata

_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_READ: Final = ("SELECT",)
_APPEND: Final = ("SELECT", "INSERT")
_KEEP: Final = ("SELECT", "INSERT", "UPDATE")  # what there was stays told, or goes by the platform's own account
_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_NOT_KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("write_log", "alarm_events", "exports", "handles", "reject_actions", "risk_events"), _APPEND),
    "password_history": (*_APPEND, "DELETE"),  # the oldest go
    **dict.fromkeys(("wards", "beds", "limit_presets"), _ALL),  # removed when somebody says so
    **dict.fromkeys(("sessions", "ended_sessions", "service_access", "second_factors", "recovery_codes"), _ALL),
    "credential_uses": _ALL,  # of a token that another took the place of
    "security_events": _ALL,  # the newest are kept
}


class Grant(NamedTuple):
    """What may be done with a table; with `columns`, only with these."""

    privileges: tuple[str, ...]
    columns: tuple[str, ...] = ()


ACCOUNTS: Final[Mapping[str, Mapping[str, Grant]]] = {
    "api": {table: Grant(_NOT_KEPT.get(table, _KEEP)) for table in metadata.tables},
    "doors": {
        "hospitals": Grant(_READ), "hand_overs": Grant(_READ), "devices": Grant(_READ),
        "isolations": Grant(_READ, ("device_handle", "released_us")),
        "patients": Grant(_READ, ("handle", "hospital_id")),
        "device_certificates": Grant(_READ, ("handle", "fingerprint", "until_us", "revoked_us")),
    },
}  # fmt: skip


def statements(prefix: str = "vitalgrid") -> Iterator[str]:
    """Make or renew the accounts `<prefix>_api` and `<prefix>_doors`; to be run by the schema's owner, who may make roles.

    Passwords are not among them. After an upgrade that brings tables they are run again. Raises InvalidInput.
    """
    if not _PREFIX.fullmatch(prefix):
        raise InvalidInput(f"{prefix[:80]!r} is no beginning of an account's name: expected a-z, 0-9 and _, up to 40 signs")
    yield "REVOKE ALL ON SCHEMA public FROM PUBLIC"
    for process, grants in ACCOUNTS.items():
        role = f'"{prefix}_{process}"'
        yield (
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{prefix}_{process}') "
            f"THEN CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT; END IF; END $$"
        )
        yield f"GRANT USAGE ON SCHEMA public TO {role}"
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}"
        yield f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}"
        for table, grant in sorted(grants.items()):
            columns = f" ({', '.join(grant.columns)})" if grant.columns else ""
            yield f"GRANT {', '.join(privilege + columns for privilege in grant.privileges)} ON {table} TO {role}"
        if any("INSERT" in grant.privileges for grant in grants.values()):
            yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
            yield f"GRANT UPDATE ON SEQUENCE handles_handle_seq TO {role}"  # many are taken at once
