"""Signed notes: a text and who signed it, a line each; a log's checkpoint and its proofs as such texts. Pure.

C2SP signed-note, tlog-checkpoint, tlog-proof. Signing and verifying are somebody else's: here is what is signed, what
the lines look like, and which signatures count. A signature of an unknown key is ignored, one of a known key that
fails spoils the note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol, Self

from domain.errors import IntegrityViolation, InvalidInput
from domain.merkle import HASH_BYTES

ED25519: Final = b"\x01"
COSIGNATURE: Final = b"\x04"  # Ed25519 too, over another text: see `domain.cosignatures`
SM2: Final = b"\xffvitalgrid.example/sm2-sm3/v1"  # 0xff: a type that the specification has no byte for, then its name
MAX_NOTE_BYTES: Final = 1_000_000
_PUBLIC_KEY_BYTES: Final = {ED25519: 32, COSIGNATURE: 32, SM2: 64}
_MOST_SIGNATURES: Final = 100
_MOST_PROOF_LINES: Final = 63
_ID_BYTES: Final = 4
_PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME: Final = re.compile(r"[^\s+]+")
DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX_ID: Final = re.compile(r"[0-9a-f]{8}")


class Signature(NamedTuple):
    """One signature line. `key_id` and `name` together say which key."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        return f"\u2014 {self.name} {_base64(self.key_id + self.value)}\n"


class Verifier(Protocol):
    """Knows one key."""

    @property
    def name(self) -> str: ...

    @property
    def key_id(self) -> bytes: ...

    def is_valid(self, text: bytes, signature: bytes) -> bool:
        """Whether the key signed `text`."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and its signatures. To be believed only as far as they are verified."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises InvalidInput for what is no signed note."""
        if len(raw) > MAX_NOTE_BYTES:
            raise InvalidInput(f"a signed note of {len(raw)} bytes is too long: expected at most {MAX_NOTE_BYTES}")
        try:
            whole = raw.decode()
        except UnicodeDecodeError:
            raise InvalidInput("this is no signed note: it is not UTF-8") from None
        at = whole.rfind("\n\n")
        if at < 0 or not whole.endswith("\n") or _CONTROL.search(whole):
            raise InvalidInput("this is no signed note: expected lines of text, an empty line, lines of signatures")
        lines = whole[at + 2 :].split("\n")[:-1]
        if not 1 <= len(lines) <= _MOST_SIGNATURES:
            raise InvalidInput(f"a signed note has {len(lines)} signatures: expected 1 to {_MOST_SIGNATURES}")
        return cls(whole[: at + 1], tuple(map(read_signature, lines)))

    def to_bytes(self) -> bytes:
        return f"{self.text}\n{''.join(signature.line for signature in self.signatures)}".encode()

    def with_signatures(self, more: Iterable[Signature]) -> Self:
        """The same text, signed by more; of a key that signed already the new signature stands."""
        signatures = {(one.name, one.key_id): one for one in (*self.signatures, *more)}
        return replace(self, signatures=tuple(signatures.values()))

    def verified_by(self, verifiers: Iterable[Verifier]) -> list[str]:
        """Names of the keys that signed the text, each once.

        Raises IntegrityViolation when no known key did, or a known key's signature is not of this text.
        """
        known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
        names: dict[tuple[str, bytes], str] = {}
        for signature in self.signatures:
            key = (signature.name, signature.key_id)
            if key not in known:
                continue
            if not known[key].is_valid(self.text.encode(), signature.value):
                raise IntegrityViolation(f"the signature of {signature.name}+{signature.key_id.hex()} is not of this text")
            names[key] = signature.name
        if not names:
            raise IntegrityViolation("nobody who is known signed this note")
        return list(names.values())


def read_signature(line: str) -> Signature:
    """A signature line without its newline. Raises InvalidInput."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    value = _bytes(encoded, "a signature")
    if dash != "\u2014" or not _NAME.fullmatch(name) or len(value) <= _ID_BYTES:
        raise InvalidInput("a signature line is malformed: expected '\u2014 name base64'")
    return Signature(name, value[:_ID_BYTES], value[_ID_BYTES:])


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A named key that notes are verified with: what a vkey (`name+id+base64`) says."""

    name: str
    kind: bytes  # ED25519, COSIGNATURE or SM2
    key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(f"a key cannot be named {self.name!r}: expected no spaces and no '+'")
        if len(self.key) != _PUBLIC_KEY_BYTES.get(self.kind):
            raise InvalidInput(f"the key of {self.name} has {len(self.key)} bytes, which fits no kind that is known")

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind + self.key).digest()[:_ID_BYTES]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(self.kind + self.key)}"

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Raises InvalidInput, also when the id is not the key's."""
        name, _, rest = vkey.partition("+")
        key_id, _, encoded = rest.partition("+")
        content = _bytes(encoded, "a vkey")
        kind = next((kind for kind in _PUBLIC_KEY_BYTES if content.startswith(kind)), None)
        if kind is None or not _HEX_ID.fullmatch(key_id):
            raise InvalidInput(f"{vkey[:100]!r} is no vkey: expected 'name+id+base64' of an Ed25519, cosignature or SM2 key")
        found = cls(name, kind, content[len(kind) :])
        if found.key_id.hex() != key_id:
            raise InvalidInput(f"the vkey of {name} says id {key_id}: expected {found.key_id.hex()}")
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: how many entries it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a note's text; lines of extensions behind it are passed over. Raises InvalidInput."""
        origin, size, root, *_ = [*text.split("\n"), "", "", ""]
        if not origin or not DECIMAL.fullmatch(size) or "" in text.split("\n")[:-1] or not text.endswith("\n"):
            raise InvalidInput("this is no checkpoint: expected lines of origin, size and root")
        decoded = _bytes(root, "a checkpoint's root")
        if len(decoded) != HASH_BYTES:
            raise InvalidInput(f"a checkpoint's root has {len(decoded)} bytes: expected {HASH_BYTES}")
        return cls(origin, int(size), decoded)


@dataclass(frozen=True, slots=True)
class Proof:
    """That an entry is in a log: what a `.tlog-proof` file says. `extra` is not covered by any signature."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes  # the signed note
    extra: bytes | None = None

    def to_bytes(self) -> bytes:
        extra = "" if self.extra is None else f"extra {_base64(self.extra)}\n"
        hashes = "".join(f"{_base64(one)}\n" for one in self.hashes)
        return f"{_PROOF_HEADER}\n{extra}index {self.index}\n{hashes}\n".encode() + self.checkpoint

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises InvalidInput."""
        head, gap, checkpoint = raw.partition(b"\n\n")
        try:
            header, *lines = head.decode().split("\n")
        except UnicodeDecodeError:
            raise InvalidInput("this is no proof: it is not UTF-8") from None
        extra = _bytes(lines.pop(0)[6:], "the extra line") if lines and lines[0].startswith("extra ") else None
        word, _, index = lines.pop(0).partition(" ") if lines else ("", "", "")
        if header != _PROOF_HEADER or not gap or word != "index" or not DECIMAL.fullmatch(index):
            raise InvalidInput(f"this is no proof: expected '{_PROOF_HEADER}', 'index <number>', hashes, a checkpoint")
        return cls(int(index), read_hashes(lines), checkpoint, extra)


def consistency_text(hashes: Sequence[bytes]) -> bytes:
    """A consistency proof as lines of base64."""
    return "".join(f"{_base64(one)}\n" for one in hashes).encode()


def read_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    """A proof's hashes, a line of base64 each. Raises InvalidInput."""
    hashes = tuple(_bytes(line, "a proof's hash") for line in lines)
    if len(hashes) > _MOST_PROOF_LINES or any(len(one) != HASH_BYTES for one in hashes):
        raise InvalidInput(f"a proof is malformed: expected at most {_MOST_PROOF_LINES} hashes of {HASH_BYTES} bytes")
    return hashes


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or _base64(raw) != text:  # one spelling each: nobody shall change a note's bytes and keep its meaning
        raise InvalidInput(f"{what} is not base64: expected its one canonical spelling")
    return raw
