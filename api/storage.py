"""What the platform says of its disks once a second: which place has room, runs full, or fails."""

from __future__ import annotations

from api.told import Told
from domain import subjects
from domain.messages import StorageLevel, StorageState
from domain.ports import Clock


class Storage(Told[list[StorageState]]):
    """The newest that was told."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, subjects.STORAGE, list[StorageState])

    def places(self) -> list[StorageState]:
        """Every place as it was last told; none when nothing was told lately."""
        return self.newest() or []

    def troubled(self) -> list[StorageState]:
        """Places that run full or fail."""
        return [state for state in self.places() if state.level is not StorageLevel.OK]
