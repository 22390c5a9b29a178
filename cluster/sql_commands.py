"""`vitalgrid sql-accounts`: statements that give each process an account of its own on PostgreSQL."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.sql.accounts import statements

Prefix = Annotated[str, typer.Option(help="Accounts are called PREFIX_api and PREFIX_doors.")]


def sql_accounts(prefix: Prefix = "vitalgrid") -> None:
    """Print CREATE ROLE and GRANT statements of least privilege for PostgreSQL; run them again after an upgrade.

    For example `vitalgrid sql-accounts | psql DATABASE`. Then give each a password, and tell the processes:
    `api.database_url`, `doors.database_url`.
    """
    for statement in statements(prefix):
        typer.echo(f"{statement};")
