"""`vitalgrid keys`: what is rotated opens as before, what is destroyed opens never more, and neither goes by unsaid."""

from __future__ import annotations

import shutil

import msgspec
import pytest
from rich.console import Console
from sqlalchemy import update
from typer.testing import CliRunner

from cluster import keys_commands
from cluster.key_kinds import KINDS
from cluster.key_orders import destroy_key, opened, ordered, reseal_key, rotate_key
from domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from domain.fleet_manifest import Tier
from domain.principals import Grant, Place, Role
from runtime import soft_keys
from runtime.backup_manifest import other_keys, prove_keys
from runtime.data_keys import DataKeys
from runtime.keys import KEYS, KeyGone, KeyKind, KeyMissing
from runtime.lake import Advance
from runtime.lake_upkeep import seal, vacuum
from runtime.second_factors import SecondFactors
from runtime.sql import patients, places, second_factors, tables, users
from runtime.sql.blind_indexes import index_anew, indexed_under
from runtime.sql.engine import writing
from runtime.sql.locating import patient_of_ref
from runtime.sql.patients import NewPatient
from tests.keys_house import EVERYTHING, LATER_S, PASSWORD, check_opens, house, made
from tests.lake_samples import sample_rows
from tests.sql_fixtures import ADA, HOSPITAL

__all__ = ["house", "made"]  # fixtures

pytestmark = pytest.mark.clause("7.2c")


def test_every_key_is_of_a_kind_that_says_what_becomes_of_it():
    assert KINDS.keys() == KEYS.keys()
    for name, kind in KINDS.items():
        assert kind.seals
        assert kind.refused or kind.then or kind.reseal, f"rotating {name} would say nothing"


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.refused is None])
def test_what_was_sealed_before_a_rotation_opens_after_it(house, name):
    version, moved = house.do(rotate_key, name)
    assert version == 2
    assert moved == {"fields": 2, "blind": 1, "totp": 1}.get(name, 0)
    check_opens(house)
    house.start()
    check_opens(house)
    who, *said = house.writes()[-2]
    assert who.startswith("os:")
    assert said == ["key.rotate", f"key {name}", {"version": 2}]
    assert house.writes()[-1][1:] == ("key.rotated", f"key {name}", {"version": 2, "moved": moved})


def test_new_fields_references_and_seeds_are_under_the_new_version(house):
    for name in ("fields", "blind", "totp", "pepper"):
        house.do(rotate_key, name)
    engine = house.engine()
    places.create_hospital(engine, ADA, hospital_id="sz.h777", name="h", tier=Tier.PRIMARY, bed_count=9, shards=1)
    patients.admit_patient(engine, ADA, "sz.h777", NewPatient("MRN-9"))
    assert indexed_under(engine) == {2: 2}
    assert patient_of_ref(engine, "sz.h777", "MRN-9") is not None
    assert DataKeys(house.settings.keys_dir / "data_keys.db", house.keys).wrapped_under() == {2: 3}
    seed = second_factors.find(engine, house.user_id)["seed"]
    assert house.keys.version_of(seed) == 2
    assert house.hashes().make("another one")[:40].count("k=2")
    assert house.hashes().is_outdated(users.find_for_sign_in(engine, "li.na")["password"])
    engine.dispose()


@pytest.mark.parametrize("name", ["fields", "blind", "totp", "log-ed25519", "log-sm2", "certificate-sm2", "backup-ed25519"])
def test_an_old_version_that_nothing_is_under_is_destroyed_and_never_comes_back(house, name):
    with pytest.raises(Conflict, match=f"version 1 of key {name} is in force: rotate first"):
        house.do(destroy_key, name, 1)
    old = house.keys.wrap(name, b"text", b"") if KEYS[name] is KeyKind.WRAP else b""
    house.do(rotate_key, name)
    with pytest.raises(Conflict, match="was in force until 0 minutes ago"):
        house.do(destroy_key, name, 1)
    house.destroy_later(name)
    assert [version.is_destroyed for version in house.keys.history(name)] == [True, False]
    check_opens(house)
    house.start()
    check_opens(house)
    if old:
        with pytest.raises(KeyGone):
            house.keys.unwrap(name, old, b"")
    assert [said[1:] for said in house.writes()[-2:]] == [
        ("key.destroy", f"key {name}", {"version": 1}), ("key.destroyed", f"key {name}", {"version": 1}),
    ]  # fmt: skip
    with pytest.raises(NotFound, match="no version 9"):
        house.do(destroy_key, name, 9)


def test_a_pepper_stays_until_every_password_was_made_anew(house):
    house.do(rotate_key, "pepper")
    house.clock.advance(LATER_S)
    with pytest.raises(Conflict, match=r"2 passwords of users \(administrator, li.na\): each user's goes under the newest"):
        house.do(destroy_key, "pepper", 1)
    engine = house.engine()
    for name in ("administrator", "li.na"):  # as at a sign-in, and as an administrator does
        users.set_password(engine, ADA, name, house.hashes().make(PASSWORD), must_change=False)
    with pytest.raises(Conflict, match="are 2 former passwords: "):
        house.do(destroy_key, "pepper", 1)
    house.do(destroy_key, "pepper", 1, forget_former=True)
    assert [house.hashes().check(PASSWORD, stored) for stored in users.kept_passwords(engine, house.user_id)] == [True]
    engine.dispose()
    check_opens(house)


def test_files_go_under_a_new_version_by_upkeep_and_the_old_one_stays_until_they_are_gone(house):
    house.lake().commit(sample_rows(50, seed=1), {0: Advance(1, 2, 1)})
    house.do(rotate_key, "lake")
    house.clock.advance(LATER_S)
    lake, snapshots = house.lake(), house.snapshots()
    with pytest.raises(Conflict, match=r"are 2 files of the lake, 1 snapshots: upkeep replaces"):
        house.do(destroy_key, "lake", 1)
    assert (seal(lake), seal(lake)) == (2, 0)
    for sequence in range(2, 9):  # hosts write them, and keep the newest few
        snapshots.save(0, 1, sequence, {})
    with pytest.raises(Conflict, match="are 2 files of the lake: "):  # the older versions of the table need them
        house.do(destroy_key, "lake", 1)
    assert vacuum(lake, retention_h=0) == 2
    before = house.keys.wrap("lake", b"key", b"")
    house.do(destroy_key, "lake", 1)
    assert len(house.lake().read(EVERYTHING)) == 100
    assert house.snapshots().load(0).sequence == 8
    assert house.keys.version_of(before) == 2


def test_a_damaged_file_under_an_older_version_holds_up_neither_upkeep_nor_is_it_overlooked(house):
    for n in range(1, 4):
        house.lake().commit(sample_rows(50, seed=n), {0: Advance(n, n + 1, 1)})
    house.do(rotate_key, "lake")
    lake = house.lake()
    victim = sorted(house.settings.lake_dir.glob("day=*/*.parquet"))[-1]
    content = bytearray(victim.read_bytes())
    content[-9] ^= 1
    victim.write_bytes(content)
    assert (seal(lake), seal(lake)) == (3, 0)
    vacuum(lake, retention_h=0)
    house.clock.advance(LATER_S)
    with pytest.raises(Conflict, match="are 1 files of the lake"):
        house.do(destroy_key, "lake", 1)


def test_a_lake_that_is_away_is_not_taken_for_one_that_needs_no_key(house):
    for name in ("lake", "streams"):
        house.do(rotate_key, name)
    house.clock.advance(LATER_S)
    shutil.move(house.settings.lake_dir, house.settings.lake_dir.with_name("elsewhere"))
    for name in ("lake", "streams"):  # no server made streams here
        with pytest.raises(Unavailable, match="is its disk mounted"):
            house.do(destroy_key, name, 1)
    assert house.keys.versions("lake") == (1, 2)


def test_where_nothing_is_sealed_any_more_a_new_key_for_files_is_refused(house):
    off = house.settings.security.model_copy(update={"seal_files": False})
    house.settings = house.settings.model_copy(update={"security": off})
    with pytest.raises(Conflict, match="would seal nothing"):
        house.do(rotate_key, "lake")


def test_keys_that_are_older_than_the_references_find_nobody_and_admit_nobody_twice(house):
    house.do(rotate_key, "blind")
    shutil.move(house.settings.keys_dir / "blind" / "2.key", house.settings.data_dir / "kept.key")
    engine = house.engine()
    for use in (lambda: patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1")),
                lambda: patient_of_ref(engine, HOSPITAL, "MRN-1"), lambda: index_anew(engine)):  # fmt: skip
        with pytest.raises(KeyMissing, match="version 2 of key blind is missing"):
            use()
    shutil.move(house.settings.data_dir / "kept.key", house.settings.keys_dir / "blind" / "2.key")
    engine.dispose()
    check_opens(house)


def test_a_database_of_before_is_indexed_anew_where_the_old_key_is_destroyed(house):
    file = house.settings.data_dir / "vitalgrid.db"
    shutil.copy(file, file.with_name("before.db"))
    house.do(rotate_key, "blind")
    house.destroy_later("blind")
    for left in house.settings.data_dir.glob("vitalgrid.db*"):
        left.unlink()
    shutil.copy(file.with_name("before.db"), file)
    house.start()
    check_opens(house)


def test_a_reference_that_does_not_open_is_left_and_keeps_its_key(house):
    engine = house.engine()
    with writing(engine) as connection:
        connection.execute(update(tables.patients).values(ref="v1|0|AAAA"))
    engine.dispose()
    assert house.do(rotate_key, "blind") == (2, 0)
    house.clock.advance(LATER_S)
    with pytest.raises(Conflict, match=r"1 references of patients: .* does not open"):
        house.do(destroy_key, "blind", 1)


def test_a_data_key_that_does_not_open_holds_up_no_other_one_nor_a_start(house):
    store = DataKeys(house.settings.keys_dir / "data_keys.db", house.keys)
    with store._using() as connection:
        connection.execute("UPDATE data_keys SET wrapped = zeroblob(48) WHERE kid = (SELECT min(kid) FROM data_keys)")
        connection.execute("UPDATE data_keys SET version = 1, under = NULL WHERE kid = (SELECT min(kid) FROM data_keys)")
        others = connection.execute("SELECT count(*) FROM data_keys WHERE under IS NULL").fetchone()[0] - 1
    store.close()
    assert house.do(rotate_key, "fields") == (2, others)
    house.start()
    house.clock.advance(LATER_S)
    with pytest.raises(Conflict, match="under version 1 of key fields are 1 data keys"):
        house.do(destroy_key, "fields", 1)


def test_a_seed_whose_key_was_destroyed_holds_up_no_other_one(house):
    engine = house.engine()
    users.create_user(engine, ADA, "wang.fang", house.hashes().make(PASSWORD), Grant(Role.NURSE, Place("sz")))
    user_id = users.find_for_sign_in(engine, "wang.fang")["id"]
    house.keys.rotate("totp")
    second_factors.propose(engine, ADA, user_id, SecondFactors(house.keys).make(user_id)[1])
    house.keys.destroy("totp", 1)  # as in a database of before, restored
    assert house.do(rotate_key, "totp") == (3, 1)
    assert house.keys.version_of(second_factors.find(engine, user_id)["seed"]) == 3
    engine.dispose()


def test_a_backup_of_before_needs_the_versions_that_sealed_and_not_those_that_signed(house):
    proofs = prove_keys(house.keys)
    assert other_keys(house.keys, proofs) == []
    for name in ("backup-sm2", "log-ed25519", "fields", "blind"):
        house.do(rotate_key, name)
        assert other_keys(house.keys, proofs) == []
    for name in ("backup-sm2", "log-ed25519", "fields", "blind"):
        house.destroy_later(name)
    assert other_keys(house.keys, proofs) == ["fields", "blind"]


def test_orders_come_one_at_a_time_and_for_keys_that_take_them(house):
    with opened(house.settings, house.clock) as stores, ordered(stores), pytest.raises(Conflict, match="another order"):
        house.do(rotate_key, "fields")
    with pytest.raises(InvalidInput, match="another key is another witness"):
        house.do(rotate_key, "witness-ed25519")
    with pytest.raises(InvalidInput, match="is no key: expected one of pepper"):
        house.do(rotate_key, "no-such-key")
    with pytest.raises(InvalidInput, match="nothing under key lake is moved by an order: upkeep"):
        house.do(reseal_key, "lake")
    assert house.keys.versions("fields") == (1,)


def test_the_command_line_lists_rotates_and_destroys(house, monkeypatch):
    monkeypatch.setattr(keys_commands, "_console", Console(width=400))
    monkeypatch.setenv("VITALGRID_DATA_DIR", str(house.settings.data_dir))
    monkeypatch.setenv("VITALGRID_SECURITY__SEAL_FILES", "true")
    monkeypatch.setenv("VITALGRID_SECURITY__PROFILE", "dev")

    def say(*arguments):
        return CliRunner().invoke(keys_commands.keys, [*arguments, "--data-dir", str(house.settings.data_dir)])

    def listed(name):
        lines = say("list").output.splitlines()
        first = next(n for n, line in enumerate(lines) if f" {name} " in line)
        return [" ".join(cell.strip() for cell in line.strip("│").split("│")[3:]) for line in lines[first : first + 2]]

    assert "never made" in listed("witness-ed25519")[0]
    assert listed("fields")[0].startswith("1 in force 20")
    assert listed("fields")[0].endswith("2 data keys")
    said = say("rotate", "fields").output
    assert "version 2 of key fields is in force: 2 data keys are under it. Back up the keys now" in said
    old, new = listed("fields")
    assert old.startswith("1 old 20")
    assert not old.endswith("data keys")
    assert new.endswith("2 data keys")
    assert "0 data keys moved" in say("reseal", "fields").output
    assert isinstance(say("destroy", "fields", "1", "--yes").exception, Conflict)
    engine = house.engine()
    key = house.settings.keys_dir / "fields" / "2.key"
    content = msgspec.json.decode(key.read_bytes(), type=soft_keys._Key)
    long_ago = msgspec.structs.replace(content, made_us=content.made_us - int(LATER_S * 1e6)).checked()
    key.write_bytes(msgspec.json.encode(long_ago))
    assert "can be destroyed for good, with --yes" in str(say("destroy", "fields", "1").exception)
    assert house.keys.versions("fields") == (1, 2)
    assert "version 1 of key fields is destroyed. Copies of keys from before" in say("destroy", "fields", "1", "--yes").output
    assert listed("fields")[0].startswith("1 destroyed 20")
    for name in ("no-such-key", "witness-ed25519"):
        assert isinstance(say("rotate", name).exception, InvalidInput)
    engine.dispose()
