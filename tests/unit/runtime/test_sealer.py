"""What a sealer remembers between calls of several threads."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from runtime.keys import make_missing
from runtime.sealing import SEALING_KEYS, Sealer
from runtime.soft_keys import SoftKeys

pytestmark = pytest.mark.clause("7.2c")


def test_an_index_that_another_thread_makes_while_versions_are_looked_at_does_no_harm(tmp_path: Path) -> None:
    keys = SoftKeys(tmp_path)
    make_missing(keys, SEALING_KEYS)
    sealer, others = Sealer.over(keys, tmp_path), count()

    class Interrupted(int):
        """A version that, when it is looked at, has another thread's turn come."""

        def __eq__(self, other: object) -> bool:
            sealer.index(f"hospital {next(others)}", "text", 1)
            return int(self) == other

        __hash__ = int.__hash__

    index = sealer.index("a hospital", "text", Interrupted(1))
    assert sealer.index_versions() == (1,)
    assert sealer.index("a hospital", "text", 1) == index
