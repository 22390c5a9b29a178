"""What tables of the business database share. Times are UTC microseconds (`_us`); rows that people edit carry a `version`."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, MetaData

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Id: Final = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER primary keys only


def version_column() -> Column[int]:
    return Column("version", Integer, nullable=False, default=1, server_default="1")


def time_column(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable)
