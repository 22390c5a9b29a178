"""Backups of an installation of real parts: made whole, verified to the bit, restored as they were. Clause 9.3."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import msgspec
import polars as pl
import pytest
from sqlalchemy import select, update

from cluster import backup_sources
from cluster.backup_drill import Verdict, drill, keep_after
from cluster.backup_making import Wish, create, keep
from cluster.backup_restoring import Source, keys_in, restore, verify
from cluster.backup_sources import server_on
from cluster.first_start import prepare_database, sealer_of
from cluster.key_orders import opened, ordered, rotate_key
from domain import subjects
from domain.errors import Conflict, IntegrityViolation, InvalidInput, NotFound, StorageFull
from domain.instants import US_PER_S
from domain.labels import WITHHELD
from runtime import backup_folder
from runtime.backup_folder import BackupFolder, Copier
from runtime.backup_manifest import read_manifest, signer_of
from runtime.clock import ManualClock, SystemClock
from runtime.data_keys import DESTROYED, destroyed_in
from runtime.erasure_certificates import CERTIFICATE_KEYS, own_vkeys, verify_bundle
from runtime.keys import KeyMissing, make_missing
from runtime.lake import Advance, ReadingQuery
from runtime.soft_keys import SoftKeys
from runtime.sql import erasures, patients
from runtime.sql.engine import reading, writing
from runtime.sql.tables import outbox
from runtime.sql.tables import patients as patients_table
from tests.erasing import Rig, rows_of_one
from tests.installations import BEYOND, IN_LAKE, NAME, ROWS, Installation, make_installation, running
from tests.sql_fixtures import ADA, HOSPITAL, later
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.3")]


@pytest.fixture
async def installation(tmp_path):
    return await make_installation(tmp_path / "var")


@pytest.fixture
def wish(tmp_path):
    return Wish(tmp_path / "backups", tmp_path / "keys")


async def made(installation, wish):
    return await create(installation.settings, wish, SystemClock())


def source(wish, manifest):
    return Source(wish.to / manifest.name, wish.keys_to)


async def restored(installation, wish, manifest, to):
    inside = installation.settings.model_copy(update={"data_dir": to})
    found = source(wish, manifest)
    await restore(inside, found, keys_in(found))
    return Installation(inside)


def patient_of(installation):
    engine = installation.engine()
    with reading(engine) as connection:
        key = connection.execute(select(patients_table.c.patient_key)).scalar_one()
    row = patients.get_patient(engine, key)
    engine.dispose()
    return row


@pytest.mark.clause("8.4e")
async def test_the_drill_restores_everything_as_it_was(installation, wish):
    async with running(installation):
        verdict = await drill(installation.settings, wish, SystemClock())
    assert verdict.holds, verdict.checks
    said = {check.what: check.says for check in verdict.checks}
    assert f"{ROWS} rows" in said["lake"]
    assert said["stream READINGS"] == f"messages {IN_LAKE} to {IN_LAKE + BEYOND}"
    assert said["data keys"].endswith("open, 0 destroyed")
    report = msgspec.json.decode((wish.to / f"drill-{verdict.backup}.json").read_bytes())
    assert report["holds"] is True
    assert sorted(path.name for path in wish.to.parent.glob(".drill-*")) == []


async def test_what_was_acknowledged_and_is_not_in_the_lake_comes_back_at_its_place(installation, wish, tmp_path):
    manifest = await made(installation, wish)  # of a platform that does not run
    again = await restored(installation, wish, manifest, tmp_path / "again")
    async with server_on(again.settings) as bus:
        state = await bus.stream_state(subjects.READINGS_STREAM)
        assert (state.first_sequence, state.last_sequence) == (IN_LAKE, IN_LAKE + BEYOND)
        message = await bus.get_message(subjects.READINGS_STREAM, IN_LAKE + 1)
        assert (message.subject, message.payload) == (subjects.reading((IN_LAKE + 1) % 2), b"frame %d" % (IN_LAKE + 1))
        assert await bus.publish(subjects.reading(0), b"a repetition", f"r-{IN_LAKE + BEYOND}") == IN_LAKE + BEYOND
        assert (await bus.stream_state(subjects.ALARMS_STREAM)).messages == 3
        assert (await bus.stream_state(subjects.AUDIT_STREAM)).messages == 1
    assert patient_of(again)["name"] == NAME


async def test_messages_to_hosts_that_the_stream_may_lack_are_sent_again(installation, wish, tmp_path):
    manifest = await made(installation, wish)
    engine = installation.engine()
    with writing(engine) as connection:
        connection.execute(update(outbox).values(published_us=manifest.began_us - 3_600_000_000))
        first = connection.execute(select(outbox.c.id).order_by(outbox.c.id)).scalars().first()
        connection.execute(update(outbox).where(outbox.c.id == first).values(published_us=SystemClock().now_us() + 1))
    engine.dispose()
    again = await restored(installation, wish, await made(installation, wish), tmp_path / "again")
    engine = again.engine()
    with reading(engine) as connection:
        assert connection.execute(select(outbox.c.id).where(outbox.c.published_us.is_(None))).scalars().all() == [first]
    engine.dispose()


async def test_every_flipped_bit_is_found(installation, wish):
    manifest = await made(installation, wish)
    found, draw = source(wish, manifest), random.Random(1)
    known = keys_in(found)
    verify(found, known)
    for folder in (found.backup, found.keys_folder):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            changed = bytearray(content or b"x")
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.raises((IntegrityViolation, NotFound)):
                verify(found, known)
            path.write_bytes(content)
    (found.backup / "one-more").touch()
    with pytest.raises(IntegrityViolation, match="one-more is not part of the backup"):
        verify(found, known)


async def test_a_file_that_went_is_named(installation, wish):
    manifest = await made(installation, wish)
    (wish.to / manifest.name / "audit/events.db").unlink()
    with pytest.raises(IntegrityViolation, match=r"audit/events\.db cannot be read"):
        verify(source(wish, manifest), keys_in(source(wish, manifest)))


async def test_other_keys_are_refused_with_their_names(installation, wish, tmp_path):
    manifest = await made(installation, wish)
    other = await make_installation(tmp_path / "other")
    others = Wish(tmp_path / "other-backups", tmp_path / "other-keys")
    theirs = await made(other, others)
    inside = installation.settings.model_copy(update={"data_dir": tmp_path / "again"})
    mixed = Source(wish.to / manifest.name, tmp_path / "mixed")
    shutil.copytree(others.keys_to / theirs.name, mixed.keys_folder)
    with pytest.raises(IntegrityViolation, match="under other keys"):
        await restore(inside, mixed, keys_in(mixed))
    shutil.rmtree(mixed.keys_folder)
    shutil.copytree(wish.keys_to / manifest.name, mixed.keys_folder)
    shutil.copyfile(others.keys_to / theirs.name / "keys/fields/1.key", mixed.keys_folder / "keys/fields/1.key")
    with pytest.raises(IntegrityViolation, match=r"keys/fields/1\.key has other content"):
        await restore(inside, mixed, keys_in(mixed))
    assert not (tmp_path / "again").exists()
    assert list(tmp_path.glob(".again*")) == []


async def test_no_order_about_keys_comes_in_between_a_copy_and_its_keys(installation, wish):
    refused = []

    def told(what: str, _size: int) -> None:
        with opened(installation.settings, SystemClock()) as stores, pytest.raises(Conflict, match="or a backup, is being"):
            rotate_key(stores, "fields")
        refused.append(what)

    await create(installation.settings, wish, SystemClock(), told)
    assert {"lake", "keys"} <= set(refused)
    with opened(installation.settings, SystemClock()) as stores:
        assert rotate_key(stores, "fields")[0] == 2
        with ordered(stores), pytest.raises(Conflict, match="an order about keys is being carried out"):
            await made(installation, wish)


async def test_nothing_is_overwritten(installation, wish, tmp_path):
    manifest = await made(installation, wish)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "something").touch()
    with pytest.raises(Conflict, match="not empty"):
        await restored(installation, wish, manifest, tmp_path / "again")


@pytest.mark.clause("9.3h")
async def test_a_backup_alone_opens_no_name_and_says_so(installation, wish, tmp_path):
    manifest = await made(installation, replace(wish, keys_to=None))
    assert not manifest.has_keys
    there = [path for path in wish.to.rglob("*") if path.is_file()]
    assert not any(NAME.encode() in path.read_bytes() for path in there)
    assert not any(path.suffix == ".key" or path.name == "data_keys.db" for path in there)
    with pytest.raises(KeyMissing, match="no keys of backup"):
        keys_in(Source(wish.to / manifest.name))


@pytest.mark.clause("9.3h")
async def test_a_person_who_was_erased_stays_erased_when_an_older_backup_is_restored(installation, wish, tmp_path):
    older = await made(installation, wish)
    engine = installation.engine()
    key = patient_of(installation)["patient_key"]
    patients.discharge_patient(engine, ADA, key, ADA.now_us, version=None)
    patients.erase_patient(engine, ADA, key)
    engine.dispose()
    newer = await made(installation, wish)
    assert len(newer.destroyed) == 1
    again = await restored(installation, wish, older, tmp_path / "again")
    assert patient_of(again)["name"] is None


def erasing(installation):
    return Rig(
        installation.engine(), sealer_of(installation.settings), installation.data_dir, SystemClock().now_us() + 1_000_000
    )


def own_rows(installation, handle):
    rows = installation.lake().read(ReadingQuery())
    return len(rows.filter(pl.col("handle") == handle, pl.col("hospital").cast(pl.String) == HOSPITAL))


def erased_person(installation):
    """The person is erased as a request has it; the certificate with what proves it, and what verifies it."""
    rig = erasing(installation)
    with contextlib.closing(rig.keeper):
        key = patient_of(installation)["patient_key"]
        make_missing(SoftKeys(installation.settings.keys_dir), CERTIFICATE_KEYS)
        patients.discharge_patient(rig.engine, ADA, key, ADA.now_us, version=None)
        erasures.request_erasure(rig.engine, later(5, reason="asked for"), key, retention_us=0, grace_us=0)
        rig.run()
        vkeys = own_vkeys(rig.signer), [one.vkey for one in rig.log_signer.public_keys()]
        return rig.bundle(key), vkeys


@pytest.mark.clause("9.3h")
@pytest.mark.parametrize("with_keys", [True, False])
async def test_who_was_erased_is_erased_again_from_a_restored_older_backup_with_all_that_it_has_of_them(
    installation, wish, tmp_path, with_keys
):
    patient = patient_of(installation)  # in the hospital still when the backup is made
    installation.lake().commit(rows_of_one(patient["handle"]), {0: Advance(IN_LAKE, IN_LAKE + 1, 1)})
    older = await made(installation, wish)
    bundle, vkeys = erased_person(installation)
    assert own_rows(installation, patient["handle"]) == 0
    present = installation.settings.keys_dir  # outlives the rest
    found = source(wish, older)
    again = Installation(installation.settings.model_copy(update={"data_dir": tmp_path / "again"}))
    listed = destroyed_in(present / DESTROYED)
    await restore(again.settings, found if with_keys else Source(found.backup), keys_in(found), erased=listed)
    if not with_keys:  # put in by hand, from the same backup
        shutil.copytree(found.keys_folder / "keys", again.settings.keys_dir, dirs_exist_ok=True)
    assert own_rows(again, patient["handle"]) == 60
    engine, sealer = again.engine(), sealer_of(again.settings)
    for _ in range(2):  # started twice before upkeep comes to it
        prepare_database(engine, again.settings, sealer)
    assert patient_of(again) | {"level": WITHHELD, "name": None, "bed_id": None} == patient_of(again)
    rig = erasing(again)
    with contextlib.closing(rig.keeper):
        assert rig.run()["state"] == "erased"
        assert rig.job.once() is None
        certified = rig.verify(rig.bundle(patient["patient_key"]))
        assert f"patient: {patient['patient_key']}\n" in certified
        assert "kept as the law wants: until before the erasure that this one repeats" in certified
    assert own_rows(again, patient["handle"]) == 0
    assert len(again.lake().read(ReadingQuery())) == ROWS
    assert f"patient: {patient['patient_key']}\n" in verify_bundle(bundle, *vkeys)
    prepare_database(engine, again.settings, sealer)
    assert rig.job.once() is None  # nobody is there again
    engine.dispose()


@pytest.mark.clause("9.3h")
async def test_rows_that_left_the_lake_behind_the_back_of_a_backup_leave_it_again(installation, wish, tmp_path, monkeypatch):
    """The job goes by between the copy of the lake and that of the database."""
    patient = patient_of(installation)
    installation.lake().commit(rows_of_one(patient["handle"]), {0: Advance(IN_LAKE, IN_LAKE + 1, 1)})
    copy_lake = backup_sources.copy_lake

    def copied(*arguments):
        facts = copy_lake(*arguments)
        erased_person(installation)
        return facts

    monkeypatch.setattr(backup_sources, "copy_lake", copied)
    again = await restored(installation, wish, await made(installation, wish), tmp_path / "again")
    assert own_rows(again, patient["handle"]) == 60
    rig = erasing(again)
    with contextlib.closing(rig.keeper):
        assert rig.run()["counts"]["lake"]["rows"] == 120  # of both lakes
    assert own_rows(again, patient["handle"]) == 0


async def test_what_never_changes_is_linked_and_not_copied_again(installation, wish):
    first, second = await made(installation, wish), await made(installation, wish)
    lake = [file.path for file in second.files if file.path.startswith("lake/")]
    assert lake
    for path in lake:
        assert (wish.to / first.name / path).samefile(wish.to / second.name / path)
    (wish.to / first.name / lake[0]).write_bytes(b"damaged")  # in both, because it is one file
    third = await made(installation, wish)
    with pytest.raises(IntegrityViolation):
        verify(source(wish, second), keys_in(source(wish, second)))
    verify(source(wish, third), keys_in(source(wish, third)))


async def test_so_many_are_kept_and_keys_of_those_alone(installation, wish, tmp_path):
    clock = ManualClock(SystemClock().now_us())  # all within one second
    names = [(await create(installation.settings, replace(wish, keep=2), clock)).name for _ in range(4)]
    assert BackupFolder(wish.to).names() == BackupFolder(wish.keys_to).names() == names[2:]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (wish.to / names[2]).rename(elsewhere / names[2])  # by hand
    keep(installation.settings, replace(wish, to=elsewhere))
    assert BackupFolder(wish.keys_to).names() == names[2:]  # keys of backups in another folder are not its own
    keep(installation.settings, replace(wish, keep=0))
    assert BackupFolder(wish.keys_to).names() == names[2:]  # who deletes nothing deletes no keys
    verdict = Verdict(backup=names[3], holds=False, checks=[], backup_bytes=0, backup_s=0, loss_s=0, restore_s=0)
    keep_after(installation.settings, replace(wish, keep=1), verdict)
    assert BackupFolder(wish.keys_to).names() == names[2:]
    keep_after(installation.settings, replace(wish, keep=1), msgspec.structs.replace(verdict, holds=True))
    assert BackupFolder(wish.to).names() == BackupFolder(wish.keys_to).names() == names[3:]


async def test_a_disk_that_is_not_there_or_another_in_its_place_costs_no_keys(installation, wish, tmp_path):
    one = replace(wish, keep=1)
    first = (await made(installation, one)).name
    wish.to.rename(tmp_path / "unmounted")
    second = (await create(installation.settings, one, ManualClock(SystemClock().now_us() + US_PER_S))).name
    assert BackupFolder(wish.keys_to).names() == [first, second]
    wish.to.rename(tmp_path / "other")
    (tmp_path / "unmounted").rename(wish.to)
    keep(installation.settings, one)
    assert BackupFolder(wish.keys_to).names() == [first, second]


async def test_keys_beside_what_they_seal_and_backups_inside_the_platform_are_refused(installation, tmp_path):
    for to, keys_to in (("b", "b/keys"), ("b/in", "b"), ("var/b", None), ("b", "var/keys")):
        with pytest.raises(InvalidInput):
            await made(installation, Wish(tmp_path / to, keys_to and tmp_path / keys_to))


async def test_a_full_disk_is_said_before_anything_is_copied(installation, wish, monkeypatch):
    monkeypatch.setattr(backup_folder.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageFull, match="MiB free"):
        await made(installation, wish)
    assert BackupFolder(wish.to).names() == []


async def test_two_at_once_are_refused(installation, wish):
    with BackupFolder(wish.to).held(), pytest.raises(Conflict, match="being made already"):
        await made(installation, wish)


@pytest.mark.clause("7.2c")
async def test_a_manifest_needs_a_signature_of_each_kind(installation, wish):
    manifest = await made(installation, wish)
    folder, keys = wish.to / manifest.name, signer_of(SoftKeys(installation.settings.keys_dir), "sz").public_keys()
    note = folder / "manifest.note"
    lines = note.read_text().splitlines(keepends=True)
    for gone in (-1, -2):
        note.write_text("".join(line for line in lines if line is not lines[gone]))
        with pytest.raises(IntegrityViolation, match="other keys"):
            verify(Source(folder), keys)


class Stopped(BaseException):
    """As kill -9 at this point: nothing after it runs that a killed process would not run either."""


async def test_stopped_at_any_file_it_is_never_listed_and_the_next_is_whole(installation, wish, monkeypatch):
    whole = await made(installation, wish)
    for stop_at in range(0, len(whole.files) + 3, 4):
        left = iter(range(stop_at))
        take, create_file, begin = Copier.take, Copier.create, BackupFolder.finish

        def counted(method, left=left):
            def call(*arguments, **options):
                if next(left, None) is None:
                    raise Stopped
                return method(*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name, method in (("take", take), ("create", create_file)):
                patched.setattr(Copier, name, counted(method))
            patched.setattr(BackupFolder, "finish", counted(begin))
            with pytest.raises(Stopped):
                await made(installation, wish)
        assert BackupFolder(wish.to).names() == [whole.name]
    again = await made(installation, wish)
    verify(source(wish, again), keys_in(source(wish, again)))
    assert list(wish.to.glob(".*.part")) == []


async def test_killed_in_the_middle_it_leaves_nothing_that_is_listed(installation, wish):
    """A process of its own, kill -9 once it has begun to copy."""
    async with running(installation):
        arguments = ["backup", "create", "--to", str(wish.to), "--data-dir", str(installation.data_dir)]
        process = subprocess.Popen(  # noqa: ASYNC220 (it is killed)
            [sys.executable, "-m", "cluster.cli", *arguments], env={**os.environ, "VITALGRID_SHARDS": "2"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await until(lambda: list(wish.to.glob(".*.part")) or process.poll() is not None, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in BackupFolder(wish.to).names():  # it was quicker than we
            read_manifest(wish.to / name)
        manifest = await made(installation, wish)
    verify(source(wish, manifest), keys_in(source(wish, manifest)))


async def test_a_sealed_installation_is_sealed_in_its_backup_and_opens_with_its_keys(tmp_path, wish):
    installation = await make_installation(tmp_path / "var", security={"seal_files": True})
    manifest = await made(installation, wish)
    assert manifest.is_sealed
    assert not any(b"frame 7" in path.read_bytes() for path in wish.to.rglob("*") if path.is_file())
    again = await restored(installation, wish, manifest, tmp_path / "again")
    async with server_on(again.settings) as bus:
        assert (await bus.get_message(subjects.READINGS_STREAM, 7)).payload == b"frame 7"
    assert again.lake().state().files["rows"].sum() == ROWS


async def test_what_a_command_puts_into_a_folder_that_all_may_read_is_its_owners_alone(installation, wish):
    for folder in (wish.to, wish.keys_to):
        folder.mkdir()
        folder.chmod(0o755)
    to = ["--to", str(wish.to), "--keys", str(wish.keys_to), "--data-dir", str(installation.data_dir)]
    subprocess.run(  # noqa: ASYNC221 (nothing else runs)
        [sys.executable, "-m", "cluster.cli", "backup", "create", *to], env={**os.environ, "VITALGRID_SHARDS": "2"},
        umask=0o022, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    made = [path for folder in (wish.to, wish.keys_to) for path in folder.rglob("*")]
    assert len(made) > 20
    assert [path for path in made if path.lstat().st_mode & 0o077] == []
