"""Fixtures of what becomes of a person's data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from runtime.sealing import Sealer
from runtime.sql import patients
from tests.contracts.test_sealed import fill
from tests.erasing import LEFT_US, Rig
from tests.sql_fixtures import SmallHospital, later


@pytest.fixture
def key(engine: Engine, hospital: SmallHospital) -> str:
    """A patient of whom there is text everywhere, and who has left."""
    made = fill(engine, hospital)
    patients.discharge_patient(engine, later(60), made, LEFT_US, version=None)
    return made


@pytest.fixture
def rig(engine: Engine, sealer: Sealer, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(engine, sealer, tmp_path)
    yield made
    made.keeper.close()
