"""Search by a part of a name or reference, over an index in memory, on both databases: what is found is what a look at every
patient finds, whoever changed them, and pages of it lose and double nobody. Clause 7.1b.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from api.selection import search
from domain.errors import Unavailable
from domain.permissions import NOWHERE, Level, Reach, everywhere
from domain.principals import Place
from runtime.sealing import Sealer
from runtime.sql import names, patients
from runtime.sql.engine import open_engine, reading
from runtime.sql.names import NamePart, names_of
from runtime.sql.patients import NewPatient
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SmallHospital, add_hospital, later

EVERYWHERE = everywhere("sz")

OTHER = "sz.h002"
SURNAMES = ("Wang", "王", "LI", "straße")


@pytest.fixture
def elsewhere(engine: Engine, sealer: Sealer) -> Iterator[Engine]:
    """The same database in another process, with an index of its own."""
    opened = open_engine(engine.url.render_as_string(hide_password=False), sealer)
    yield opened
    opened.dispose()


def all_of(engine: Engine, **filters: Any) -> list[dict[str, Any]]:
    """Every page of a list."""
    rows, after = [], None
    while True:
        page = patients.list_patients(engine, reach=EVERYWHERE, clear=EVERYWHERE, limit=3, after=after, **filters)
        rows += page.rows
        if page.after is None:
            return rows
        assert len(page.rows) == 3
        after = page.after


def looked_through(engine: Engine, text: str, **filters: Any) -> list[str]:
    """Keys of those that match, by a look at each."""
    small = text.lower()
    return [
        row["patient_key"] for row in all_of(engine, **filters)
        if not row["erased"] and (small in (row["name"] or "").lower() or small in row["ref"].lower())
    ]  # fmt: skip


class Ward:
    """Changes patients at random."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._random = random.Random(7)
        self._keys: list[str] = []
        self._at_s = 0

    def change(self) -> None:
        self._at_s += 60
        author, at_us = later(self._at_s), NOW_US + self._at_s * 1_000_000
        row = patients.get_patient(self._engine, self._random.choice(self._keys)) if self._keys else {"erased": True}
        name = f"{self._random.choice(SURNAMES)} {self._random.randrange(30)}"
        what = self._random.random()
        if row["erased"] or what < 0.3:
            new = NewPatient(
                f"MRN-{len(self._keys)}", self._random.choice([name, None]), ward_id=self._random.choice(["icu", None])
            )
            hospital_id = self._random.choice([HOSPITAL, OTHER])
            self._keys.append(patients.admit_patient(self._engine, author, hospital_id, new)["patient_key"])
        elif row["discharged_us"] is None and what < 0.7:
            values = {"name": name, "ward_id": self._random.choice(["icu", "general"])}
            patients.update_patient(self._engine, author, row["patient_key"], values, version=None)
        elif row["discharged_us"] is None:
            patients.discharge_patient(self._engine, author, row["patient_key"], at_us, version=None)
        elif what < 0.8:
            patients.erase_patient(self._engine, author, row["patient_key"])
        else:
            patients.admit_patient(self._engine, author, row["hospital_id"], NewPatient(row["ref"], name))


@pytest.mark.clause("7.1b")
def test_a_search_finds_what_a_look_at_every_patient_finds(
    engine: Engine, elsewhere: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_MOST_RECENT", 6)  # so that both parts of the index are in use
    monkeypatch.setattr(names, "_CHUNK", 4)
    add_hospital(engine)
    add_hospital(engine, OTHER)
    ward = Ward(engine)
    narrower: list[dict[str, Any]] = [
        {}, {"hospital_id": OTHER}, {"ward_id": "icu"}, {"present_only": True}, {"hospital_id": HOSPITAL, "present_only": True},
    ]  # fmt: skip
    for number in range(60):
        ward.change()
        filters = narrower[number % len(narrower)]
        for text in ("wang", "王", "MRN-1", "STRASSE", "ß 1", "nobody"):
            expected = looked_through(engine, text, **filters)
            for asked in (engine, elsewhere):
                assert [row["patient_key"] for row in all_of(asked, text=text, **filters)] == expected
    with reading(elsewhere) as connection:
        assert len(names_of(connection)) == len(all_of(engine))


@pytest.mark.clause("7.1b")
def test_readings_are_found_by_the_name_of_who_wears_the_device(
    engine: Engine, elsewhere: Engine, hospital: SmallHospital
) -> None:
    handle, key = hospital.monitor["handle"], hospital.patient["patient_key"]
    patients.associate(engine, ADA, handle, key, NOW_US)
    for asked in (engine, elsewhere):
        assert search(asked, "小明", None, [], reach=EVERYWHERE, clear=EVERYWHERE).handles == [handle]
        assert search(asked, "mrn-1", [HOSPITAL], [], reach=EVERYWHERE, clear=EVERYWHERE).handles == [handle]
        assert search(asked, "mrn-2", None, [], reach=EVERYWHERE, clear=EVERYWHERE).handles == []
    patients.update_patient(engine, later(1), key, {"name": "李四"}, version=1)
    for asked in (engine, elsewhere):
        assert search(asked, "小明", None, [], reach=EVERYWHERE, clear=EVERYWHERE).handles == []
        assert search(asked, "李", None, [], reach=EVERYWHERE, clear=EVERYWHERE).handles == [handle]


def test_names_that_take_long_to_read_are_waited_for_and_not_for_ever(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_WAIT_S", 0.01)
    with reading(engine) as connection:
        index = names_of(connection)
        with index._lock:
            asking: list[BaseException] = []
            thread = threading.Thread(target=lambda: asking.append(_refused(engine)))
            thread.start()
            thread.join()
        assert "try again" in str(asking[0])
        assert index.keys(connection, NamePart("小明")) == [hospital.patient["patient_key"]]
        index.close()
        patients.update_patient(engine, later(1), hospital.patient["patient_key"], {"name": "x"}, version=1)
        with pytest.raises(Unavailable, match="ends"):
            index.refresh(connection)


def _refused(engine: Engine) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        patients.list_patients(engine, reach=EVERYWHERE, clear=EVERYWHERE, limit=1, text="x")
    return refused.value


def test_the_first_reading_holds_few_rows_at_once_and_knows_all(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_CHUNK", "_CHUNKS_AT_ONCE", "_MOST_RECENT"):
        monkeypatch.setattr(names, name, 2)
    everybody = [hospital.patient["patient_key"]]
    everybody += [patients.admit_patient(engine, ADA, HOSPITAL, NewPatient(f"MRN-{n}"))["patient_key"] for n in range(2, 12)]
    at_once: list[int] = []
    take = names.NameIndex._take

    def taking(index: names.NameIndex, rows: list[Any]) -> None:
        at_once.append(len(rows))
        take(index, rows)

    monkeypatch.setattr(names.NameIndex, "_take", taking)
    with reading(engine) as connection:
        assert names_of(connection).keys(connection, NamePart("mrn")) == sorted(everybody)
        assert len(names_of(connection)) == len(everybody)
    assert at_once == [4, 4, 3, 0]


@pytest.mark.clause("9.3c")
def test_only_names_that_may_be_seen_are_looked_through(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_in: list[tuple[str, ...]] = []
    keys = names.NameIndex.keys

    def looking(index: names.NameIndex, connection: Connection, part: NamePart, **how: Any) -> list[str]:
        looked_in.append(tuple(part.hospital_ids))
        return keys(index, connection, part, **how)

    monkeypatch.setattr(names.NameIndex, "keys", looking)
    add_hospital(engine, OTHER)
    handle, key = hospital.monitor["handle"], hospital.patient["patient_key"]
    patients.associate(engine, ADA, handle, key, NOW_US)
    here = Reach({Place("sz", None, HOSPITAL): Level.STRICT}, {})
    for clear, asked, found in (
        (NOWHERE, None, []), (here, [OTHER], []), (here, None, [handle]), (here, [HOSPITAL, OTHER], [handle]),
    ):  # fmt: skip
        assert search(engine, "小明", asked, [], reach=EVERYWHERE, clear=clear).handles == found
    assert looked_in == [(HOSPITAL,), (HOSPITAL,)]
