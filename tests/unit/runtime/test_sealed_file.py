"""Sealed files: whatever was changed in one, it does not open, and what is damaged is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.errors import IntegrityViolation
from runtime.keys import KeyGone, make_missing
from runtime.sealed_file import CHUNK_BYTES, MAGIC, FileSeal, is_sealed
from runtime.sm import GCM_NONCE_BYTES, sm4_gcm_open
from runtime.soft_keys import SoftKeys

ME = "lake/day=2026-01-01/a"
SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7)
_FRONT_BYTES = 7


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SoftKeys:
    provider = SoftKeys(tmp_path_factory.mktemp("keys"))
    make_missing(provider, ["lake"])
    return provider


@pytest.fixture(scope="module")
def seal(keys: SoftKeys) -> FileSeal:
    return FileSeal(keys)


def content_of(size: int) -> bytes:
    return (b"0123456789abcdefghijklmnopqrstuvwxyz" * (size // 36 + 1))[:size]


@pytest.fixture
def sealed(seal: FileSeal, tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(seal.seal(content_of(2 * CHUNK_BYTES + 100), ME))
    return path


@pytest.mark.clause("7.2c")
@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back_and_is_not_in_the_file(seal: FileSeal, tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(seal.seal(content_of(size), ME))
    assert is_sealed(path)
    assert seal.read(path, ME) == content_of(size)
    assert size < 16 or content_of(size)[:16] not in path.read_bytes()


@given(data=st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_reading_and_seeking_are_those_of_a_plain_file(
    seal: FileSeal, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = content_of(data.draw(st.sampled_from(SIZES)))
    path = tmp_path_factory.mktemp("sealed") / "a"
    path.write_bytes(seal.seal(content, ME))
    plain = io.BytesIO(content)
    with seal.reader(path, ME) as reader:
        for _ in range(data.draw(st.integers(1, 8))):
            whence = data.draw(st.sampled_from([io.SEEK_SET, io.SEEK_END]))
            offset = data.draw(st.integers(0, len(content) + 10))
            offset = -min(offset, len(content)) if whence == io.SEEK_END else offset
            assert reader.seek(offset, whence) == plain.seek(offset, whence)
            size = data.draw(st.sampled_from([0, 1, 100, CHUNK_BYTES, -1]))
            assert reader.read(size) == plain.read(size)


@given(sizes=st.lists(st.integers(0, 2 * CHUNK_BYTES), max_size=6))
@hypothesis_settings(max_examples=20, deadline=None)
def test_however_it_is_written_it_is_the_same_content(
    seal: FileSeal, tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "a"
    with path.open("wb") as file, seal.writer(file, ME) as writer:
        for size in sizes:
            writer.write(content_of(size))
        assert writer.tell() == sum(sizes)
    assert seal.read(path, ME) == b"".join(map(content_of, sizes))


def test_the_format_is_the_one_that_is_described(keys: SoftKeys, seal: FileSeal) -> None:
    """Opened by hand: a file of today has to open for as long as there are backups."""
    sealed = seal.seal(content_of(CHUNK_BYTES + 5), ME)
    assert sealed[:5] == b"VGSF\1"
    begin = _FRONT_BYTES + int.from_bytes(sealed[5:7], "little")
    key = keys.unwrap("lake", sealed[_FRONT_BYTES:begin], b"VGSF\1" + ME.encode())
    first, last = sealed[begin : begin + CHUNK_BYTES + 16], sealed[begin + CHUNK_BYTES + 16 :]
    assert sm4_gcm_open(key, bytes(GCM_NONCE_BYTES), first, b"\0") == content_of(CHUNK_BYTES)
    assert sm4_gcm_open(key, (1).to_bytes(GCM_NONCE_BYTES, "big"), last, b"\1") == content_of(CHUNK_BYTES + 5)[-5:]


@pytest.mark.clause("9.3")
def test_a_flipped_bit_anywhere_is_found_and_its_chunk_named(seal: FileSeal, sealed: Path) -> None:
    whole = sealed.read_bytes()
    begin = _FRONT_BYTES + int.from_bytes(whole[5:7], "little")
    in_chunks = {begin + number * (CHUNK_BYTES + 16) + at: number for number in range(3) for at in (0, 50, 115)}
    for at in (*range(begin), *in_chunks):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        sealed.write_bytes(damaged)
        named = f"chunk {in_chunks[at]} of 3" if at in in_chunks else str(sealed)
        with pytest.raises(IntegrityViolation, match=named):
            seal.read(sealed, ME)


@pytest.mark.clause("9.3")
@pytest.mark.parametrize("missing", [1, 16, 100, 116, 117, CHUNK_BYTES + 132, 2 * (CHUNK_BYTES + 16) + 116])
def test_a_file_without_its_end_does_not_open(seal: FileSeal, sealed: Path, missing: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:-missing])
    with pytest.raises(IntegrityViolation):
        seal.reader(sealed, ME)


def test_a_file_with_more_behind_its_end_does_not_open(seal: FileSeal, sealed: Path) -> None:
    sealed.write_bytes(sealed.read_bytes() + b"more")
    with pytest.raises(IntegrityViolation):
        seal.reader(sealed, ME)


def test_a_writing_that_failed_leaves_a_file_that_does_not_open(seal: FileSeal, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(OSError, match="full"), path.open("wb") as file, seal.writer(file, ME) as writer:  # noqa: PT012
        writer.write(content_of(3 * CHUNK_BYTES))
        raise OSError("full")
    with pytest.raises(IntegrityViolation):
        seal.reader(path, ME)


@pytest.mark.clause("9.3")
def test_chunks_cannot_change_places_nor_files(seal: FileSeal, sealed: Path, tmp_path: Path) -> None:
    whole = sealed.read_bytes()
    begin, size = _FRONT_BYTES + int.from_bytes(whole[5:7], "little"), CHUNK_BYTES + 16
    first, second, rest = whole[begin : begin + size], whole[begin + size : begin + 2 * size], whole[begin + 2 * size :]
    other = seal.seal(content_of(2 * CHUNK_BYTES + 100), ME)
    swapped = tmp_path / "swapped"
    swapped.write_bytes(whole[:begin] + second + first + rest)
    with pytest.raises(IntegrityViolation, match="chunk 0"):
        seal.read(swapped, ME)
    swapped.write_bytes(whole[:begin] + first + other[begin + size : begin + 2 * size] + rest)
    with pytest.raises(IntegrityViolation, match="chunk 1"):
        seal.read(swapped, ME)


def test_a_file_does_not_open_in_the_place_of_another(seal: FileSeal, sealed: Path) -> None:
    with pytest.raises(IntegrityViolation, match="does not open as lake/day=2026-01-01/b"):
        seal.reader(sealed, "lake/day=2026-01-01/b")


def test_what_an_older_version_of_the_key_sealed_opens_until_it_is_destroyed(tmp_path: Path) -> None:
    keys = SoftKeys(tmp_path / "keys")
    make_missing(keys, ["lake"])
    seal = FileSeal(keys)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(seal.seal(b"before", ME))
    keys.rotate("lake")
    new.write_bytes(seal.seal(b"after", ME))
    assert (seal.read(old, ME), seal.read(new, ME)) == (b"before", b"after")
    keys.destroy("lake", 1)
    with pytest.raises(KeyGone):
        seal.reader(old, ME)
    assert seal.read(new, ME) == b"after"


def test_a_plain_file_is_told_from_a_sealed_one(tmp_path: Path, seal: FileSeal) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"PAR1" + MAGIC)
    assert not is_sealed(plain)
    with pytest.raises(IntegrityViolation, match="no sealed file"):
        seal.reader(plain, ME)
