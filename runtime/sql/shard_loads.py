"""What each shard holds, and for whom it is: where a hospital is put when it is registered, dedicated or shared again."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from domain.host_orders import Placement
from runtime.sql.tables import devices, hand_overs, hospitals


class ShardLoads:
    """How much each shard holds: devices, then hospitals, those on their way to it too. For placing one after the other."""

    def __init__(self, connection: Connection, shards: int) -> None:
        per_hospital = select(devices.c.hospital_id, func.count()).group_by(devices.c.hospital_id)
        in_hospital: dict[str, int] = {str(hospital_id): int(count) for hospital_id, count in connection.execute(per_hospital)}
        self._loads = dict.fromkeys(range(shards), (0, 0))
        self._dedicated = dedicated_shards(connection)
        where = [*connection.execute(select(hospitals.c.id, hospitals.c.shard)), *arriving(connection).items()]
        for hospital_id, shard in where:
            if shard in self._loads:
                self._add(shard, in_hospital.get(hospital_id, 0))

    def place(self, device_count: int) -> int:
        """The shard for a hospital of so many devices: the least loaded that is not dedicated, the lowest among equals."""
        shard = min(self._shared(), key=lambda number: (*self._loads[number], number))
        self._add(shard, device_count)
        return shard

    def has_spare(self) -> bool:
        """Whether a shard may be dedicated, and the others have one left."""
        return len(self._shared()) > 1

    def empty(self) -> int | None:
        """A shard without any hospital; None where there is none."""
        return next((shard for shard in self._shared() if self._loads[shard][1] == 0), None)

    def is_alone_in(self, shard: int) -> bool:
        """Whether one hospital is all that this shard holds."""
        return self._loads[shard][1] == 1

    def fewest(self) -> tuple[int, int]:
        """The shared shard with the fewest hospitals, and how many: which one would be emptied most easily."""
        shard = min(self._shared(), key=lambda number: (self._loads[number][1], self._loads[number][0], number))
        return shard, self._loads[shard][1]

    def _shared(self) -> list[int]:
        return [shard for shard in self._loads if shard not in self._dedicated]

    def _add(self, shard: int, device_count: int) -> None:
        held, count = self._loads[shard]
        self._loads[shard] = (held + device_count, count + 1)


def arriving(connection: Connection) -> dict[str, int]:
    """Hospitals that are on their way to another shard, and to which."""
    query = select(hand_overs.c.hospital_id, hand_overs.c.to_shard).where(hand_overs.c.switched_us.is_(None))
    return {str(hospital_id): int(shard) for hospital_id, shard in connection.execute(query)}


def dedicated_shards(connection: Connection) -> dict[int, str]:
    """Shards that are for one hospital alone, and for which: where a dedicated one is, or is on its way to."""
    query = select(hospitals.c.id, hospitals.c.shard).where(hospitals.c.placement == str(Placement.DEDICATED))
    to_shard = arriving(connection)
    return {to_shard.get(str(hospital_id), int(shard)): str(hospital_id) for hospital_id, shard in connection.execute(query)}
