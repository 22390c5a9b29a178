"""The witnesses of the access log: each checkpoint is shown to them before it is published, and published with their word.

A witness that is away, slow or wrong holds nothing up: it has half a second. What it signs later is published too, as long
as that checkpoint is the log's last. Nor can its word alone stop the log: that the log is behind, or another one than it
was, is believed of a checkpoint that the log itself signed, and that the witness still has. Then nothing more is signed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from http import HTTPStatus
from typing import Final, NamedTuple

from domain.cosignatures import ADD_CHECKPOINT, Submission, checkpoint_path
from domain.errors import IntegrityViolation, InvalidInput, Unavailable
from domain.merkle import consistency_proof, root_of
from domain.signed_notes import Checkpoint, Note, PublicKey, Signature, read_signature
from domain.tiles import TiledTree
from runtime.log_signing import LogSigner
from runtime.note_signing import KeyVerifier
from runtime.witness_client import TIMEOUT_S, Reply, WitnessClient

logger = logging.getLogger(__name__)

WITHIN_S: Final = 0.5
_AGAIN_S: Final = 1.0
_LONG_S: Final = 30.0  # away for longer than a start takes: then it is worth a line in the log
_TRIES: Final = 3  # where the witness is may change between two of them


class Shown(NamedTuple):
    """A checkpoint as the log is about to publish it, or has."""

    note: bytes
    said: Checkpoint
    tree: TiledTree
    signed: int  # the largest size that the log ever signed: more than is said while it is being made again


class Signed(NamedTuple):
    """What a witness signed."""

    said: Checkpoint
    signature: Signature


class LogWitness:
    """One witness. `public` gives its key, and raises Unavailable while that is not known."""

    def __init__(self, client: WitnessClient, public: Callable[[], PublicKey], where: str) -> None:
        self._client = client
        self._public = public
        self.where = where
        self._asking: Future[Signed] | None = None
        self._asked_s = 0.0
        self._again_s = 0.0
        self._old: int | None = None  # what it had when it was last heard
        self._signed: Signed | None = None  # the last that was heard
        self.problem: str | None = None
        self._away_since_s: float | None = None
        self._is_told = False

    @property
    def size(self) -> int | None:
        """Of the last checkpoint whose signature was heard of it."""
        return None if self._signed is None else self._signed.said.size

    def signature(self, said: Checkpoint) -> Signature | None:
        """Its signature of this checkpoint; None if it was not heard."""
        return self._signed.signature if self._signed is not None and self._signed.said == said else None

    def ask(self, shown: Shown, signer: LogSigner, now_s: float) -> Future[Signed] | None:
        """Begin to ask, unless it signed this, is still being asked, or did not answer a moment ago."""
        if self._asking is not None and now_s - self._asked_s >= TIMEOUT_S:
            self._note(f"it has not answered for {now_s - self._asked_s:.0f} s", now_s)
        if self.signature(shown.said) is not None or self._asking is not None or now_s < self._again_s:
            return None
        self._asking, self._asked_s = Future(), now_s
        # A daemon: whoever ends does not wait for a witness that does not answer.
        threading.Thread(target=self._answer, args=(self._asking, shown, signer), name=f"ask {self.where}", daemon=True).start()
        return self._asking

    def hear(self, shown: Shown, now_s: float) -> None:
        """Take up what it answered, if it did. Raises RolledBack if that convicts the log, which is at `shown`."""
        if self._asking is None or not self._asking.done():
            return
        asked, self._asking = self._asking, None
        try:
            self._signed = asked.result()
        except Exception as error:  # noqa: BLE001 (whatever it was: a witness holds nothing up)
            if isinstance(error, _Refused) and error.kept is not None:
                self._convict(error.kept, shown)
            self._note(str(error), now_s)
            self._again_s = now_s + _AGAIN_S
        else:
            self._note(None, now_s)

    def _note(self, problem: str | None, now_s: float) -> None:
        self.problem = problem
        if problem is None:
            self._away_since_s, self._is_told = None, False
            return
        self._away_since_s = now_s if self._away_since_s is None else self._away_since_s
        if now_s - self._away_since_s >= _LONG_S and not self._is_told:
            logger.warning("a witness does not sign the access log: %s", problem, extra={"witness": self.where})
            self._is_told = True

    def _answer(self, asking: Future[Signed], shown: Shown, signer: LogSigner) -> None:
        try:
            asking.set_result(self._sign(shown, signer))
        except BaseException as error:  # noqa: BLE001 (whoever hears it judges)
            asking.set_exception(error)

    def _sign(self, shown: Shown, signer: LogSigner) -> Signed:
        size = shown.said.size
        old = size if self._old is None else min(self._old, size)
        for _ in range(_TRIES):
            hashes = tuple(consistency_proof(old, size, shown.tree.node))
            reply = self._client.post(ADD_CHECKPOINT, Submission(old, hashes, shown.note).to_bytes())
            if reply.status == HTTPStatus.OK:
                signature = self._read(reply, shown)
                self._old = size
                return Signed(shown.said, signature)
            if reply.status != HTTPStatus.CONFLICT:
                break
            known = _size(reply)
            if known > size:
                break
            old = known
        self._old = None
        why = f"it refuses ({reply.status}): {reply.body[:200].decode(errors='replace').strip()}"
        raise _Refused(why, self._kept(shown.said.origin, signer))

    def _read(self, reply: Reply, shown: Shown) -> Signature:
        public = self._public()
        lines = reply.body.decode(errors="replace").split("\n")[:-1]
        for signature in map(read_signature, lines):
            if (signature.name, signature.key_id) == (public.name, public.key_id):
                if not KeyVerifier(public).is_valid(shown.said.text.encode(), signature.value):
                    raise InvalidInput("what it answers is no signature of this checkpoint")
                return signature
        raise InvalidInput(f"its answer is not signed by {public.name}")

    def _kept(self, origin: str, signer: LogSigner) -> Checkpoint | None:
        """The checkpoint that the witness has; None unless this log signed it: its word alone is not enough."""
        reply = self._client.get(checkpoint_path(origin))
        if reply.status != HTTPStatus.OK:
            return None
        try:
            return signer.verify(reply.body)
        except (IntegrityViolation, InvalidInput):
            return None

    def _convict(self, kept: Checkpoint, present: Shown) -> None:
        """Raise RolledBack when the log denies `kept`, which it signed.

        To be compared with the log as it is now: it may have signed more since the witness was asked.
        """
        if kept.size > present.signed:
            raise RolledBack(
                f"rolled-back: the log has {present.said.size} entries, and {self.where} has its signature for {kept.size}"
            )
        if kept.size <= present.said.size and root_of(kept.size, present.tree.node) != kept.root:
            raise RolledBack(f"rolled-back: the first {kept.size} entries of the log are not those it signed for {self.where}")


class _Refused(Unavailable):
    """A witness does not sign. `kept`: what it has instead, signed by this log."""

    def __init__(self, why: str, kept: Checkpoint | None) -> None:
        super().__init__(why)
        self.kept = kept


class RolledBack(IntegrityViolation):
    """The log is not a continuation of what it signed before: an older copy, or another past."""

    code = "rolled-back"


class LogWitnesses:
    """All of a log. Calls come from one thread at a time."""

    def __init__(
        self, signer: LogSigner, witnesses: Sequence[LogWitness] = (), now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._signer = signer
        self._witnesses = witnesses
        self._now_s = now_s

    def cosigned(self, shown: Shown) -> bytes:
        """The checkpoint with the signatures of those who gave one by now, or do in time. Raises RolledBack."""
        self._hear(shown)  # who was late is free to be asked again
        asked = [witness.ask(shown, self._signer, self._now_s()) for witness in self._witnesses]
        wait([one for one in asked if one is not None], WITHIN_S)
        self._hear(shown)
        known = [witness.signature(shown.said) for witness in self._witnesses]
        signatures = [one for one in known if one is not None]
        return Note.parse(shown.note).with_signatures(signatures).to_bytes() if signatures else shown.note

    def have_all(self, said: Checkpoint) -> bool:
        """Whether the signature of each of them is known."""
        return all(witness.signature(said) is not None for witness in self._witnesses)

    @property
    def size(self) -> int | None:
        """Entries that each of them has signed for, as far as was heard; None without witnesses."""
        return min((witness.size or 0 for witness in self._witnesses), default=None)

    @property
    def problems(self) -> list[str]:
        """Why some do not sign, a sentence each."""
        return [f"{one.where}: {one.problem}" for one in self._witnesses if one.problem is not None]

    def _hear(self, shown: Shown) -> None:
        for witness in self._witnesses:
            witness.hear(shown, self._now_s())


def _size(reply: Reply) -> int:
    text = reply.body.decode("ascii", errors="replace").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidInput("it answers 409 without its size")
    return int(text)
