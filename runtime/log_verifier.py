"""Verifies a Vitalgrid access log, from its folder or over REST. Needs Python 3.10 or later and no other file.

    python log_verifier.py log DIR-or-URL --vkey KEY [--witness-vkey KEY] [--since OLD-CHECKPOINT] [--token-file FILE]
                                          [--ca FILE] [--unexplained-before INDEX]
    python log_verifier.py proof PROOF-FILE --entry ENTRY-FILE --vkey KEY [--witness-vkey KEY]

`log` reads everything: who signed the checkpoint, that each entry is the leaf that the tree has, that every tile follows
from those below it (in the folder those of earlier checkpoints too), and that the root is the signed one; with `--since`,
that nothing was changed since an earlier checkpoint, which you kept where the log's owner cannot reach it. In the folder it
also opens each commitment by the event and salt that lie beside the tree; an event that is gone must be named by a later
entry, which says that the erasure of a person took it (not asked of those below `--unexplained-before`). `proof` shows that
one entry is in a log of which you know no more than its key.

Get keys (`vkey`) from the log's owner once, by another way than the log itself: Ed25519 and SM2; of each kind that is given
one key must have signed. Get keys of witnesses (`--witness-vkey`) from those who run them: each that is given must have
signed too, so that the log can have no other past than the one they saw. Signatures of other keys are counted. Exit code:
0 all holds, 1 something does not, 2 it could not be checked: wrong use, or the log could not be reached or read.

Deliberately written apart from the code that writes the log, from RFC 9162, RFC 8032, GB/T 32905, GB/T 32918 and c2sp.org's
signed-note, tlog-checkpoint, tlog-tiles, tlog-proof and tlog-cosignature: a mistake in one is not repeated in the other.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import sqlite3
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

WIDTH = 256
HASH_BYTES = 32
PROOF_HEADER = "c2sp.org/tlog-proof@v1"


class DoesNotHold(Exception):
    """Something is not as the log says. A sentence."""


class CouldNotCheck(Exception):
    """Nothing was found out: what was given is of no use, or the log cannot be reached. A sentence."""


class Report(NamedTuple):
    """What was verified."""

    origin: str
    size: int
    root: bytes
    signatures: int
    others: int  # signatures of keys that were not given
    events: int | None  # commitments opened; None: there were no events to open them by
    witnessed_s: int | None = None  # when all witnesses that were given had signed, POSIX time; None: none was given
    emptied: int = 0  # events that are gone, for persons were erased


# ---- Ed25519, RFC 8032 5.1: verification only, so nothing here is secret and time may vary

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)


def _decoded(raw: bytes) -> tuple[int, int, int, int] | None:
    """The point of 32 bytes, in extended coordinates; None when there is none."""
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _sum(p: tuple[int, int, int, int], q: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(number: int, point: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = _sum(total, point)
        point = _sum(point, point)
        number >>= 1
    return total


_BASE = _decoded((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature holds."""
    key, commitment = _decoded(public_key), _decoded(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or key is None or commitment is None or scalar >= _L:
        return False
    assert _BASE is not None
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % _L
    left, right = _times(scalar, _BASE), _sum(commitment, _times(challenge, key))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (left[1] * right[2] - right[1] * left[2]) % _P == 0


# ---- SM3 and SM2, GB/T 32905 and GB/T 32918.2

_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_Q = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_A = _Q - 3
_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
_G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
_SM3_START = (0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600, 0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E)
_SIGNER = b"1234567812345678"


def _turned(word: int, by: int) -> int:
    return ((word << by % 32) | (word >> (32 - by % 32))) & 0xFFFFFFFF


def sm3(message: bytes) -> bytes:
    """The SM3 digest."""
    state = _SM3_START
    padded = message + b"\x80" + bytes((55 - len(message)) % 64) + (8 * len(message)).to_bytes(8, "big")
    for start in range(0, len(padded), 64):
        words = [int.from_bytes(padded[at : at + 4], "big") for at in range(start, start + 64, 4)]
        for at in range(16, 68):
            mixed = words[at - 16] ^ words[at - 9] ^ _turned(words[at - 3], 15)
            words.append(mixed ^ _turned(mixed, 15) ^ _turned(mixed, 23) ^ _turned(words[at - 13], 7) ^ words[at - 6])
        a, b, c, d, e, f, g, h = state
        for at in range(64):
            first = _turned((_turned(a, 12) + e + _turned(0x79CC4519 if at < 16 else 0x7A879D8A, at)) & 0xFFFFFFFF, 7)
            chosen = (a ^ b ^ c, e ^ f ^ g) if at < 16 else ((a & b) | (a & c) | (b & c), (e & f) | (~e & g))
            left = (chosen[0] + d + (first ^ _turned(a, 12)) + (words[at] ^ words[at + 4])) & 0xFFFFFFFF
            right = (chosen[1] + h + first + words[at]) & 0xFFFFFFFF
            a, b, c, d = left, a, _turned(b, 9), c
            e, f, g, h = right ^ _turned(right, 9) ^ _turned(right, 17), e, _turned(f, 19), g
        state = tuple(old ^ new for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True))  # type: ignore[assignment]
    return b"".join(word.to_bytes(4, "big") for word in state)


def _added(p: tuple[int, int] | None, q: tuple[int, int] | None) -> tuple[int, int] | None:
    if p is None or q is None:
        return q if p is None else p
    if p[0] == q[0] and (p[1] + q[1]) % _Q == 0:
        return None
    slope = (3 * p[0] * p[0] + _A) * pow(2 * p[1], -1, _Q) if p == q else (q[1] - p[1]) * pow(q[0] - p[0], -1, _Q)
    x = (slope * slope - p[0] - q[0]) % _Q
    return x, (slope * (p[0] - x) - p[1]) % _Q


def _multiple(number: int, point: tuple[int, int] | None) -> tuple[int, int] | None:
    total = None
    while number:
        total = _added(total, point) if number & 1 else total
        point, number = _added(point, point), number >> 1
    return total


def is_signed_sm2(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an SM2 signature (DER, by the default signer id) holds."""
    x, y = int.from_bytes(public_key[:32], "big"), int.from_bytes(public_key[32:], "big")
    numbers = _der_numbers(signature)
    if max(x, y) >= _Q or (y * y - x * x * x - _A * x - _B) % _Q or numbers is None:
        return False
    r, s = numbers
    t = (r + s) % _N
    if not (0 < r < _N and 0 < s < _N and t):
        return False
    curve = b"".join(number.to_bytes(32, "big") for number in (_A, _B, *_G))
    signer = sm3((8 * len(_SIGNER)).to_bytes(2, "big") + _SIGNER + curve + public_key)
    point = _added(_multiple(s, _G), _multiple(t, (x, y)))
    return point is not None and (int.from_bytes(sm3(signer + message), "big") + point[0]) % _N == r


def _der_numbers(raw: bytes) -> tuple[int, int] | None:
    """The two integers of a sequence; None for any other bytes."""
    first_end = 4 + raw[3] if len(raw) > 4 else 0
    r, s = int.from_bytes(raw[4:first_end], "big"), int.from_bytes(raw[first_end + 2 :], "big")
    both = b"".join(b"\x02" + bytes([number.bit_length() // 8 + 1]) + number.to_bytes(number.bit_length() // 8 + 1, "big")
                    for number in (r, s) if number < 2**256)  # fmt: skip
    return (r, s) if raw == b"\x30" + bytes([len(both)]) + both else None


# ---- Notes and checkpoints


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raw = b""
    if not raw or base64.b64encode(raw).decode() != text:
        raise DoesNotHold("what should be base64 is not")
    return raw


def is_cosigned(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a witness's signature (a time, then Ed25519) holds."""
    text = b"cosignature/v1\ntime %d\n%b" % (int.from_bytes(signature[:8], "big"), message)
    return len(signature) == 72 and is_signed(public_key, text, signature[8:])


_WITNESS = b"\x04"
_KINDS = {(b"\x01", 32): is_signed, (_WITNESS, 32): is_cosigned, (b"\xffvitalgrid.example/sm2-sm3/v1", 64): is_signed_sm2}


def read_vkey(vkey: str) -> tuple[tuple[str, bytes], tuple[bytes, int], bytes]:
    """((name, key id), kind, key) of `name+id+base64`."""
    name, key_id, encoded = [*vkey.strip().split("+", 2), "", ""][:3]
    try:
        content = _base64(encoded)
    except DoesNotHold:
        content = b""
    kind = next((kind for kind in _KINDS if content.startswith(kind[0]) and len(content) == len(kind[0]) + kind[1]), None)
    if not name or kind is None or hashlib.sha256(name.encode() + b"\n" + content).digest()[:4].hex() != key_id:
        raise CouldNotCheck(f"{vkey[:80]!r} is no key of the form name+id+base64, Ed25519, SM2 or a witness's")
    return (name, bytes.fromhex(key_id)), kind, content[len(kind[0]) :]


def _text_and_signatures(raw: bytes) -> tuple[str, list[tuple[tuple[str, bytes], bytes]]]:
    """The text of a note, and of each signature ((name, key id), value)."""
    try:
        text, _, lines = raw.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise DoesNotHold("the checkpoint is no text") from None
    if not text or not lines.endswith("\n"):
        raise DoesNotHold("the checkpoint has no signatures")
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, name, encoded = [*line.split(" "), "", ""][:3]
        value = _base64(encoded)
        if dash != "\u2014" or line.count(" ") != 2 or len(value) < 5:
            raise DoesNotHold("a signature line of the checkpoint is malformed")
        signatures.append(((name, value[:4]), value[4:]))
    return text + "\n", signatures


def open_note(raw: bytes, vkeys: list[str]) -> tuple[str, int, int]:
    """The text of a note, how many of the keys signed it, and how many others did."""
    keys = {key_id: (kind, key) for key_id, kind, key in map(read_vkey, vkeys)}
    text, signatures = _text_and_signatures(raw)
    verified, others = {}, 0
    for key_id, value in signatures:
        if key_id not in keys:
            others += 1
            continue
        kind, key = keys[key_id]
        if not _KINDS[kind](key, text.encode(), value):
            raise DoesNotHold(f"the signature of {key_id[0]}+{key_id[1].hex()} does not hold for this checkpoint")
        verified[key_id] = kind
    if not verified or set(verified.values()) != {kind for kind, _ in keys.values()}:
        raise DoesNotHold("the checkpoint is not signed by a key of each kind that was given")
    return text, len(verified), others


def witnessed_at(raw: bytes, vkeys: list[str]) -> int | None:
    """The time by which each of these witnesses had signed the note; None when there are none."""
    signatures = dict(_text_and_signatures(raw)[1])
    times = []
    for vkey in vkeys:
        key_id, kind, _ = read_vkey(vkey)
        if kind[0] != _WITNESS:
            raise CouldNotCheck(f"{key_id[0]} is the key of a log, not of a witness")
        if key_id not in signatures:
            raise DoesNotHold(f"the checkpoint is not signed by the witness {key_id[0]}")
        open_note(raw, [vkey])
        times.append(int.from_bytes(signatures[key_id][:8], "big"))
    return max(times, default=None)


def read_checkpoint(text: str) -> tuple[str, int, bytes]:
    """(origin, size, root)."""
    origin, size, root = [*text.split("\n"), "", "", ""][:3]
    if not origin or not size.isascii() or not size.isdigit() or str(int(size)) != size or len(_base64(root)) != HASH_BYTES:
        raise DoesNotHold("the checkpoint does not say origin, size and root")
    return origin, int(size), _base64(root)


# ---- The tree


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """The root over leaves, level by level: what has no sibling goes up as it is."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    while len(hashes) > 1:
        pairs = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)]
        hashes = [*pairs, hashes[-1]] if len(hashes) % 2 else pairs
    return hashes[0]


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    """RFC 9162 2.1.3.2."""
    at, last, got, rest = index, size - 1, leaf, list(path)
    while rest and last:
        sibling = rest.pop(0)
        if at % 2 or at == last:
            got = node_hash(sibling, got)
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            got = node_hash(got, sibling)
        at, last = at // 2, last // 2
    if not 0 <= index < size or rest or last or got != root:
        raise DoesNotHold(f"the proof does not lead from this entry at {index} to the signed root")


# ---- Where the log is


def _verifying(ca: str | None) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        tls.load_verify_locations(ca)
    return tls


class Source:
    """A folder, or the address of a log's REST interface (such as https://127.0.0.1:8080/api/v1/log).

    `ca`: a file with the authority of its certificate, beside those that this machine trusts.
    """

    def __init__(self, where: str, token: str | None = None, ca: str | None = None) -> None:
        try:
            parts = urllib.parse.urlsplit(where)
        except ValueError as error:
            raise CouldNotCheck(f"{where} is no address: {error}") from None
        self._url = where.rstrip("/") if parts.scheme in ("http", "https") else None
        if token and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise CouldNotCheck(f"the token would cross a network in clear to {parts.hostname}: expected https://")
        self.folder = None if self._url else Path(where)
        self._token = token
        try:
            self._tls = _verifying(ca) if self._url else None
        except OSError as error:
            raise CouldNotCheck(f"{ca} is no file with an authority's certificate: {error}") from None

    def get(self, path: str) -> bytes | None:
        """What lies at `path`; None when nothing does. Raises CouldNotCheck when that cannot be said."""
        try:
            return self._got(path)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CouldNotCheck(f"{path} cannot be read: {error}") from None

    def _got(self, path: str) -> bytes | None:
        if self.folder is not None:
            try:
                return (self.folder / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        request = urllib.request.Request(f"{self._url}/{path}")  # noqa: S310 (http and https only, see above)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def note(self) -> bytes:
        """The signed checkpoint. Raises DoesNotHold for a log that has none, CouldNotCheck where there is no log."""
        note = self.get("checkpoint")
        if note is not None:
            return note
        if self.folder is None or not ((self.folder / "tile").exists() or (self.folder / "events.db").exists()):
            raise CouldNotCheck(f"there is no log at {self._url or self.folder}: it has no checkpoint")
        raise DoesNotHold("the log has no checkpoint")

    def tile(self, level: str, number: int, width: int) -> bytes:
        """A tile or bundle; the full one where the partial one is gone."""
        path = _path(level, number)
        content = None if width == WIDTH else self.get(f"{path}.p/{width}")
        content = self.get(path) if content is None else content
        if content is None:
            raise DoesNotHold(f"{path} is missing")
        return content

    def check_narrower(self, level: str, number: int, pieces: list[bytes]) -> None:
        """That what lies in the folder of the same tile or bundle for earlier checkpoints is how its `pieces` begin.

        Nobody can list them over REST; what they were is then checked against by whoever has such a checkpoint.
        """
        path = f"{_path(level, number)}.p"
        kept = [] if self.folder is None else [file.name for file in (self.folder / path).glob("*")]
        for width in sorted(int(name) for name in kept if name.isascii() and name.isdigit()):
            content = self.get(f"{path}/{width}") if width < len(pieces) else None
            if content is not None and content != b"".join(pieces[:width]):
                raise DoesNotHold(f"{path}/{width} is not the beginning of what came after it")


def _path(level: str, number: int) -> str:
    groups, rest = [f"{number % 1000:03d}"], number // 1000
    while rest:
        groups, rest = [f"x{rest % 1000:03d}", *groups], rest // 1000
    return f"tile/{level}/{'/'.join(groups)}"


def _entries(bundle: bytes, width: int, number: int) -> list[bytes]:
    """The first `width` entries of a bundle, which has that many or is full."""
    entries, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entries.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    if at != len(bundle) or len(entries) not in (width, WIDTH):
        raise DoesNotHold(f"bundle {number} of entries is damaged: it has not {width} entries")
    return entries[:width]


_ELSEWHERE = ("unable to open", "locked", "disk I/O", "busy")  # what SQLite says of a file that it cannot get at


def _of(error: sqlite3.DatabaseError) -> Exception:
    if any(words in str(error) for words in _ELSEWHERE):
        return CouldNotCheck(f"events.db cannot be read: {error}")
    return DoesNotHold(f"events.db is damaged: {error}")


def _opened(file: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    except sqlite3.DatabaseError as error:
        raise _of(error) from None


def _said(entry: bytes) -> dict[str, object]:
    """What an entry says."""
    try:
        said = json.loads(entry)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not {"commitment", "by"} <= said.keys():
        raise DoesNotHold("an entry is none of this log: it has no commitment")
    return said


class _Unexplained(DoesNotHold):
    """Events are gone, and no entry says why; one that came in the meantime may."""


class _Events:
    """The events beside the tree: that they are those which its entries are commitments to. `opened`: how many.

    And that those which are gone, `emptied`, are named by entries that say so.
    """

    def __init__(self, file: Path) -> None:
        self._connection = _opened(file)
        self.opened = self.emptied = 0
        self._gone: list[list[int]] = []  # ascending [first, last]
        self._explained: list[list[int]] = []
        self._erased: dict[int, bytes] = {}  # index: the write by which a person was erased

    def check(self, start: int, entries: list[bytes]) -> None:
        """Those of entries from index `start` on."""
        query = "SELECT idx, salt, event, entry FROM events WHERE idx >= ? AND idx < ? ORDER BY idx"
        try:
            rows = self._connection.execute(query, (start, start + len(entries))).fetchall()
        except sqlite3.DatabaseError as error:
            raise _of(error) from None
        if [row[0] for row in rows] != list(range(start, start + len(entries))):
            raise DoesNotHold(f"events.db lacks events between {start} and {start + len(entries)}")
        for index, salt, event, entry in rows:
            if entry != entries[index - start]:
                raise DoesNotHold(f"events.db has another entry {index} than the log")
            if salt is None and event is None:
                self._is_gone(index)
                continue
            said = _said(entry)
            opens = isinstance(salt, bytes) and isinstance(event, bytes)
            if not opens or base64.b64encode(hashlib.sha256(salt + event).digest()).decode() != said["commitment"]:
                raise DoesNotHold(f"the event of entry {index} is not the one that was logged")
            self.opened += 1
            if said["by"] in ("writes", "emptying"):
                self._explain(index, str(said["by"]), event)

    def _is_gone(self, index: int) -> None:
        self.emptied += 1
        if self._gone and self._gone[-1][1] == index - 1:
            self._gone[-1][1] = index
        else:
            self._gone.append([index, index])

    def _explain(self, index: int, by: str, event: bytes) -> None:
        """Entries say what is gone, by `emptying`, behind the write which says that a person is erased."""
        if by == "writes":
            if b'"patient.erase"' in event:
                self._erased[index] = event
            return
        try:
            said = json.loads(event)
            because = self._erased.get(said["erasure"], b"")
            if len(said["patient"]) >= 16 and said["patient"].encode() in because:
                self._explained += [[first, last] for first, last in said["entries"] if last < index]
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # it explains nothing

    def check_gone(self, before: int) -> None:
        """That each event that is gone, from index `before` on, is explained."""
        reasons, at = sorted(self._explained), 0
        for first, last in self._gone:
            wanted = max(first, before)
            while wanted <= last:
                while at < len(reasons) and reasons[at][1] < wanted:
                    at += 1
                if at == len(reasons) or reasons[at][0] > wanted:
                    raise _Unexplained(f"the event of entry {wanted} is gone, and no entry says that an erasure took it")
                wanted = reasons[at][1] + 1

    def close(self) -> None:
        self._connection.close()


class _Tree:
    """The tree over the entries so far, of which no more is kept than the tiles that are not full: some hashes a level."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: list[list[bytes]] = []
        self._full: list[int] = []

    def add(self, hashes: list[bytes], level: int = 0) -> None:
        """Hashes behind those of a level, none beyond the tile that is open; a tile that becomes full is looked at."""
        if level == len(self._open):
            self._open.append([])
            self._full.append(0)
        self._open[level] += hashes
        if len(self._open[level]) == WIDTH:
            self._look(level)
            tile, self._open[level] = self._open[level], []
            self._full[level] += 1
            self.add([tree_hash(tile)], level + 1)

    def end(self) -> None:
        """There are no more: look at the tiles that did not become full."""
        for level, hashes in enumerate(self._open):
            if hashes:
                self._look(level)

    def root(self, more: list[bytes]) -> bytes:
        """The root, if `more` came behind what is there. Each level's hashes are of perfect trees, what follows is smaller."""
        root: list[bytes] = []
        for hashes in [[*self._open[0], *more], *self._open[1:]] if self._open else [more]:
            if hashes or root:
                root = [tree_hash([*hashes, *root])]
        return root[0] if root else tree_hash([])

    def _look(self, level: int) -> None:
        hashes, number = self._open[level], self._full[level]
        content = self._source.tile(str(level), number, len(hashes))
        if content[: HASH_BYTES * len(hashes)] != b"".join(hashes) or len(content) not in (HASH_BYTES * len(hashes), 8192):
            raise DoesNotHold(f"tile {number} of level {level} does not follow from the entries")
        self._source.check_narrower(str(level), number, hashes)


def _read(source: Source, size: int, events: _Events | None, old_size: int) -> tuple[bytes, bytes | None]:
    """The root of all entries, and that of the first `old_size`; bundles and tiles are read one after the other, and let go."""
    tree = _Tree(source)
    old_root = None
    for number in range(-(-size // WIDTH)):
        start = number * WIDTH
        width = min(WIDTH, size - start)
        entries = _entries(source.tile("entries", number, width), width, number)
        source.check_narrower("entries", number, [len(entry).to_bytes(2, "big") + entry for entry in entries])
        if events is not None:
            events.check(start, entries)
        leaves = list(map(leaf_hash, entries))
        if start <= old_size < start + width:
            old_root = tree.root(leaves[: old_size - start])
        tree.add(leaves)
    tree.end()
    root = tree.root([])
    return root, root if old_size == size else old_root


def verify_log(
    source: Source, vkeys: list[str], since: bytes | None = None, witness_vkeys: list[str] | None = None,
    unexplained_before: int = 0,
) -> Report:  # fmt: skip
    """Verify everything. Raises DoesNotHold with the first thing that does not, CouldNotCheck when that cannot be said.

    `unexplained_before`: below this index events may be gone for reasons that the log does not say.
    """
    for _ in range(2):
        note = source.note()
        try:
            return _verified(source, note, vkeys, since, witness_vkeys or [], unexplained_before)
        except _Unexplained:
            if source.note() == note:
                raise
    return _verified(source, source.note(), vkeys, since, witness_vkeys or [], unexplained_before)


def _verified(
    source: Source, note: bytes, vkeys: list[str], since: bytes | None, witness_vkeys: list[str], before: int
) -> Report:
    old_origin, old_size, old_root = (None, 0, tree_hash([])) if since is None else _earlier(since, vkeys)
    text, verified, others = open_note(note, vkeys)
    origin, size, root = read_checkpoint(text)
    witnessed = witnessed_at(note, witness_vkeys)
    beside = None if source.folder is None else source.folder / "events.db"
    events = _Events(beside) if beside is not None and beside.exists() else None
    try:
        found_root, found_old_root = _read(source, size, events, old_size)
    finally:
        if events is not None:
            events.close()
    if found_root != root:
        raise DoesNotHold("the entries do not have the root that was signed")
    if old_origin not in (None, origin) or found_old_root != old_root:
        raise DoesNotHold(f"the log was rewritten: its first {old_size} entries are not those that were signed before")
    if events is None:
        return Report(origin, size, root, verified, others, None, witnessed)
    events.check_gone(before)
    return Report(origin, size, root, verified, others, events.opened, witnessed, events.emptied)


def _earlier(since: bytes, vkeys: list[str]) -> tuple[str, int, bytes]:
    """What the checkpoint says that was kept. That it does not hold is no word about the log."""
    try:
        return read_checkpoint(open_note(since, vkeys)[0])
    except DoesNotHold as error:
        raise CouldNotCheck(f"the earlier checkpoint is of no use: {error}") from None


def verify_proof(proof: bytes, entry: bytes, vkeys: list[str], witness_vkeys: list[str] | None = None) -> Report:
    """That `entry` is in the log whose checkpoint the proof has. Raises DoesNotHold, CouldNotCheck."""
    head, gap, note = proof.partition(b"\n\n")
    lines = head.decode(errors="replace").split("\n")
    if len(lines) > 1 and lines[1].startswith("extra "):
        del lines[1]
    if not gap or lines[0] != PROOF_HEADER or len(lines) < 2 or not lines[1].startswith("index "):
        raise DoesNotHold("this is no proof")
    index = lines[1][6:]
    text, verified, others = open_note(note, vkeys)
    origin, size, root = read_checkpoint(text)
    if not (index.isascii() and index.isdigit()):
        raise DoesNotHold("this is no proof")
    check_inclusion(leaf_hash(entry), int(index), size, list(map(_base64, lines[2:])), root)
    return Report(origin, size, root, verified, others, None, witnessed_at(note, witness_vkeys or []))


def describe(report: Report) -> str:
    """A report in words."""
    words = f"{report.origin}: {report.size} entries, root {base64.b64encode(report.root).decode()}"
    words += f"; {report.signatures} signatures verified"
    if report.others:
        words += f", {report.others} of other keys"
    if report.witnessed_s is not None:
        words += f"; witnessed at {datetime.fromtimestamp(report.witnessed_s, timezone.utc):%F %T} UTC"  # noqa: UP017 (3.10 has no UTC)
    if report.events is not None:
        words += f"; {report.events} events opened"
    return words + (f", {report.emptied} emptied" if report.emptied else "")


def main() -> int:
    """See module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    log, proof = commands.add_parser("log"), commands.add_parser("proof")
    log.add_argument("where")
    log.add_argument("--since", type=Path)
    log.add_argument("--token-file", type=Path)
    log.add_argument("--ca")
    log.add_argument("--unexplained-before", type=int, default=0)
    proof.add_argument("proof", type=Path)
    proof.add_argument("--entry", type=Path, required=True)
    for command in (log, proof):
        command.add_argument("--vkey", action="append", required=True)
        command.add_argument("--witness-vkey", action="append", default=[])
    given = parser.parse_args()
    try:
        if given.command == "proof":
            report = verify_proof(given.proof.read_bytes(), given.entry.read_bytes(), given.vkey, given.witness_vkey)
        else:
            token = given.token_file.read_text().strip() if given.token_file else None
            since = given.since.read_bytes() if given.since else None
            report = verify_log(
                Source(given.where, token, given.ca), given.vkey, since, given.witness_vkey, given.unexplained_before
            )
    except DoesNotHold as error:
        sys.stdout.write(f"DOES NOT HOLD: {error}\n")
        return 1
    except (CouldNotCheck, OSError, UnicodeDecodeError) as error:
        sys.stdout.write(f"COULD NOT BE CHECKED: {error}\n")
        return 2
    sys.stdout.write(f"holds: {describe(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
