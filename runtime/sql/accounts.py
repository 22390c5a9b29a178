"""Accounts of least privilege on PostgreSQL: what each process may do in the business database, as a table.

The platform itself (`vitalgrid up`) owns the schema and migrates it. Its other processes need no more than is here: none
may change the schema, nobody may change what was notified or written in the log, and doors learn nothing of a patient but
the number that readings bear. Processes that are not named here (hosts, audit, queries, upkeep) need no account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from runtime.sql.tables import metadata

_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_APPEND: Final = ("SELECT", "INSERT")
_APPEND_ONLY: Final = frozenset({"write_log", "alarm_events", "exports", "handles", "reject_actions", "password_history"})
_KEPT_SHORT: Final = frozenset({"password_history"})  # the oldest are deleted


class Grant(NamedTuple):
    """What may be done with a table; with `columns`, only with these."""

    privileges: tuple[str, ...]
    columns: tuple[str, ...] = ()


def _of_api() -> dict[str, Grant]:
    return {
        name: Grant((*_APPEND, "DELETE") if name in _KEPT_SHORT else _APPEND if name in _APPEND_ONLY else _ALL)
        for name in metadata.tables
    }


_READ: Final = ("SELECT",)
ACCOUNTS: Final[Mapping[str, Mapping[str, Grant]]] = {
    "api": _of_api(),
    "doors": {
        "hospitals": Grant(_READ), "hand_overs": Grant(_READ), "devices": Grant(_READ),
        "patients": Grant(_READ, ("handle", "hospital_id")),
    },
}  # fmt: skip


def statements(prefix: str = "vitalgrid") -> Iterator[str]:
    """Make or renew the accounts `<prefix>_api` and `<prefix>_doors`; to be run by the schema's owner, who may make roles.

    Passwords are not among them. After an upgrade that brings tables they are run again.
    """
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
