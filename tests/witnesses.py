"""A witness in the same process, asked as one elsewhere would be."""

from __future__ import annotations

from collections.abc import Callable

from domain.errors import Unavailable
from domain.signed_notes import PublicKey
from runtime.log_signing import LogSigner
from runtime.log_witnesses import LogWitness, LogWitnesses
from runtime.witness import Witness
from runtime.witness_client import Reply


class WitnessHere:
    """`runtime.witness_client.WitnessClient` without a network. `is_away`: as if there was none."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.is_away = False
        self.before_answer: Callable[[], object] = lambda: None

    def post(self, path: str, body: bytes) -> Reply:
        return self._reply(lambda: self.witness.add_checkpoint(body))

    def get(self, path: str) -> Reply:
        return self._reply(lambda: self.witness.checkpoint(path))

    def _reply(self, ask: Callable[[], tuple]) -> Reply:
        if self.is_away:
            raise Unavailable("nobody is there")
        self.before_answer()
        return Reply(*ask()[:2])

    def key(self) -> PublicKey:
        return self.witness.public


def witnessed_by(
    signer: LogSigner, *witnesses: Witness | WitnessHere, now_s: Callable[[], float] = lambda: 0.0
) -> LogWitnesses:
    here = [one if isinstance(one, WitnessHere) else WitnessHere(one) for one in witnesses]
    return LogWitnesses(signer, [LogWitness(one, one.key, f"w{at}") for at, one in enumerate(here)], now_s)  # type: ignore[arg-type]
