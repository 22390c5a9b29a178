"""Business databases for the tests of this folder."""

from __future__ import annotations

from tests.sql_fixtures import database_url, engine, hospital, new_database, template_url

__all__ = ["database_url", "engine", "hospital", "new_database", "template_url"]
