"""The access log as it can be verified: checkpoint, tiles, proofs, keys, and the program that verifies. C2SP tlog-tiles.

Nothing here shows what an event was: entries are commitments to events. Whoever was shown an event with its salt checks
it against them. Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Query, Response

from api.asking import Asking
from api.errors import problems
from api.locators import in_region
from api.permissions import may
from api.routes.router import api_router
from api.services import Behind
from domain.errors import IntegrityViolation, InvalidInput, NotFound
from domain.merkle import consistency_proof, inclusion_proof
from domain.permissions import Action
from domain.signed_notes import Checkpoint, Note, Proof, consistency_text
from domain.tiles import parse_tile
from runtime import log_verifier
from runtime.log_store import LogReader

router = api_router("/log", tags=["access log"])
LogRead = Annotated[Asking, may(Action.LOG_READ, at=in_region("log"))]

TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
_LASTING: Final = {"Cache-Control": "private, max-age=31536000, immutable"}
_FRESH: Final = {"Cache-Control": "no-cache"}
_VERIFIER: Final = Path(log_verifier.__file__).read_bytes()


def _answers(media_type: str) -> dict[str, Any]:
    """How a route that answers with bytes of its own is documented."""
    return {"response_class": Response, "responses": {200: {"content": {media_type: {}}}} | problems(NotFound)}


@router.get("/checkpoint", **_answers(TEXT))
async def checkpoint(_who: LogRead, behind: Behind) -> Response:
    """What the log says of itself now: its name, how many entries it has, the root over them; signed."""
    note = await behind.lanes.codec(_signed, behind.services.log)
    return Response(note, media_type=TEXT, headers=_FRESH)


@router.get("/tile/{path:path}", **_answers(BYTES))
async def tile(_who: LogRead, path: str, behind: Behind) -> Response:
    """Hashes of the tree (`0/x001/234`, `0/000.p/17`) or entries (`entries/000`). What a path has never changes."""
    try:
        wanted = parse_tile(path)
    except InvalidInput as error:
        raise NotFound(str(error)) from None
    content = await behind.lanes.codec(behind.services.log.read, wanted)
    return Response(content, media_type=BYTES, headers=_LASTING)


@router.get("/entries/{index}", **_answers("application/json"))
async def entry(_who: LogRead, index: int, behind: Behind) -> Response:
    """One entry, byte for byte as it is hashed into the tree."""
    content = await behind.lanes.codec(_entry, behind.services.log, index)
    return Response(content, media_type="application/json", headers=_LASTING)


@router.get("/entries/{index}/proof", **_answers(TEXT))
async def entry_proof(_who: LogRead, index: int, behind: Behind) -> Response:
    """That the entry is in the log, for whoever knows the log's keys and nothing else of it (c2sp.org/tlog-proof)."""
    proof = await behind.lanes.codec(entry_proof_of, behind.services.log, index)
    headers = _FRESH | {"Content-Disposition": f'attachment; filename="{index}.tlog-proof"'}
    return Response(proof, media_type=TEXT, headers=headers)


@router.get("/consistency", **_answers(TEXT))
async def consistency(
    _who: LogRead, behind: Behind,
    old: Annotated[int, Query(alias="from", ge=0, description="Size of an earlier checkpoint.")],
    new: Annotated[int | None, Query(alias="to", ge=0, description="Size of a later one; the present one by default.")] = None,
) -> Response:  # fmt: skip
    """Hashes, a line each, which show that the log of `to` entries begins with that of `from` (RFC 9162, 2.1.4)."""
    content = await behind.lanes.codec(_consistency, behind.services.log, old, new)
    return Response(content, media_type=TEXT, headers=_FRESH)


@router.get("/keys", **_answers(TEXT))
async def keys(_who: LogRead, behind: Behind) -> Response:
    """Keys that the log signs with (vkeys), a line each. Compare them once with what the log's owner says elsewhere."""
    vkeys = await behind.lanes.codec(behind.services.log.keys)
    if vkeys is None:
        raise NotFound("the access log has not begun yet")
    return Response(vkeys, media_type=TEXT, headers=_FRESH)


@router.get("/verifier", **_answers("text/x-python"))
async def verifier(_who: LogRead) -> Response:
    """A program that verifies the log and its proofs; needs Python and nothing else."""
    return Response(_VERIFIER, media_type="text/x-python; charset=utf-8", headers=_FRESH)


def _signed(log: LogReader) -> bytes:
    note = log.note()
    if note is None:
        raise NotFound("the access log has not begun yet")
    return note


def _present(log: LogReader) -> tuple[bytes, Checkpoint]:
    note = _signed(log)
    try:
        return note, Checkpoint.parse(Note.parse(note).text)
    except InvalidInput as error:
        raise IntegrityViolation(f"the access log's checkpoint is damaged: {error}") from error


def _entry(log: LogReader, index: int) -> bytes:
    size = _present(log)[1].size
    if not 0 <= index < size:
        raise NotFound(f"the access log has no entry {index}: it has {size}")
    return log.entry(index, size)


def entry_proof_of(log: LogReader, index: int) -> bytes:
    """That an entry is in the log, as a file (c2sp.org/tlog-proof). Raises NotFound."""
    note, present = _present(log)
    if not 0 <= index < present.size:
        raise NotFound(f"the access log has no entry {index}: it has {present.size}")
    hashes = inclusion_proof(index, present.size, log.tree(present.size).node)
    return Proof(index, tuple(hashes), note).to_bytes()


def _consistency(log: LogReader, old: int, new: int | None) -> bytes:
    size = _present(log)[1].size
    new = size if new is None else new
    if new > size:
        raise NotFound(f"the access log has {size} entries: expected `to` to be at most that")
    # the tree as it is now: perfect subtrees of a shorter one are the same
    return consistency_text(consistency_proof(old, new, log.tree(size).node))
