"""Every streaming detector of the platform, in one place. A new one is a row here; the contract suite finds it."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from analytics.robust_z import RobustZ
from domain.ports import Scorer

SCORERS: Final[tuple[Callable[[], Scorer], ...]] = (RobustZ,)

# the `source` of a score: ids are on disk, so rows are added, never renumbered
SCORER_IDS: Final = MappingProxyType({("robust-z", 1): 0xFFFF_0001})


def scorer_id(scorer: Scorer) -> int:
    """The source that marks a reading as made by this scorer at this version."""
    return SCORER_IDS[scorer.name, scorer.version]
