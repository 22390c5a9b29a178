"""How hospitals are furnished: wards, occupancy and devices per bed, as tables with their source.

Sources. [ICU] 重症医学科建设与管理指南(试行), 卫办医政发〔2009〕23号: intensive care holds 2 to 8 % of a tertiary
hospital's beds at about 75 % occupancy; each bed has a monitor, in tertiary hospitals a ventilator, and two or more
syringe pumps. [A] our assumption, to be replaced by a district's own inventory: no public count was found.
The *fill* is what brings a hospital from its bedside equipment to the stated total: the sensors, tags and wearables of
an instrumented district. Its shares are assumptions [A], chosen so that the district of 100,000 devices in
`scenarios/calm-district.toml` says 20,000 to 30,000 readings a second at the periods by which `sim.devices` forwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from domain.fleet_manifest import Tier


class WardKind(StrEnum):
    ICU = "icu"
    EMERGENCY = "ed"
    GENERAL = "gen"


@dataclass(frozen=True, slots=True)
class TierProfile:
    """shares: ward kind -> share of beds (the rest is general); occupancy: ward kind -> share of beds in use."""

    shares: Mapping[WardKind, float]
    occupancy: Mapping[WardKind, float]
    stay_days: float  # mean length of stay
    beds_per_ct: int  # 0: none
    ventilators_per_icu_bed: float


_W = WardKind
TIERS: Final[Mapping[Tier, TierProfile]] = MappingProxyType({
    # ICU share and occupancy: [ICU]; emergency share, other occupancies, stays and CT density: [A]
    Tier.TERTIARY: TierProfile({_W.ICU: 0.06, _W.EMERGENCY: 0.04}, {_W.ICU: 0.75, _W.EMERGENCY: 0.80, _W.GENERAL: 0.88},
                               8.0, 300, 1.0),
    Tier.SECONDARY: TierProfile({_W.ICU: 0.03, _W.EMERGENCY: 0.05}, {_W.ICU: 0.70, _W.EMERGENCY: 0.70, _W.GENERAL: 0.76},
                                8.0, 400, 0.6),
    Tier.PRIMARY: TierProfile({}, {_W.GENERAL: 0.58}, 6.5, 0, 0.0),
})  # fmt: skip

WARD_BEDS: Final[Mapping[WardKind, int]] = MappingProxyType({_W.ICU: 16, _W.EMERGENCY: 20, _W.GENERAL: 40})  # [A]

# How patients pass through a ward [A]: the mean time in it as a share of the tier's stay; who of it moves on to a general
# ward rather than home; how long a bed is made ready for the next
STAY_SHARE: Final[Mapping[WardKind, float]] = MappingProxyType({_W.ICU: 0.5, _W.EMERGENCY: 0.1, _W.GENERAL: 1.0})
MOVES_ON: Final[Mapping[WardKind, float]] = MappingProxyType({_W.ICU: 0.8, _W.EMERGENCY: 0.5, _W.GENERAL: 0.0})
CLEANING_S: Final = 2700.0
LEAST_STAY_S: Final = 1800.0  # nobody leaves a ward sooner

# Devices that stand at a bed: ward kind -> model -> devices per bed
PER_BED: Final[Mapping[WardKind, Mapping[str, float]]] = MappingProxyType({
    _W.ICU: {"monitor": 1.0, "infusion-pump": 3.0, "patient-chart": 1.0},  # [ICU]; ventilators: see TIERS
    _W.EMERGENCY: {"monitor": 0.8, "infusion-pump": 1.0, "patient-chart": 0.8, "bp-cuff": 0.2, "wearable": 0.2},  # [A]
    _W.GENERAL: {"monitor": 0.2, "infusion-pump": 0.5, "patient-chart": 0.2, "bp-cuff": 0.25, "wearable": 0.5},  # [A]
})  # fmt: skip

# Devices of a ward, per bed of the ward, that belong to no bed [A]
PER_WARD_BED: Final[Mapping[str, float]] = MappingProxyType({"room-sensor": 0.35, "gas-pressure": 0.05, "fridge": 0.05})

# What fills a hospital up to the stated total: model -> share of the fill [A]
FILL: Final[Mapping[str, float]] = MappingProxyType({
    "wearable": 0.26,  # worn by discharged and chronic patients of the hospital's community
    "room-sensor": 0.46,  # corridors, stores, theatres, laboratories, offices
    "fridge": 0.10,  # blood, vaccines, reagents, ward medicine
    "infusion-pump": 0.08,  # the equipment pool, on standby
    "bp-cuff": 0.06,  # at home, with the wearer
    "gas-pressure": 0.04,
})  # fmt: skip

# Models that lose power with the mains; the others run on batteries. Monitors and ventilators have batteries too.
ON_MAINS: Final = frozenset({"room-sensor", "gas-pressure", "fridge", "ct"})
ID_PREFIX: Final[Mapping[str, str]] = MappingProxyType({
    "gateway": "gw", "monitor": "mon", "ventilator": "vent", "infusion-pump": "pump", "wearable": "wear",
    "bp-cuff": "cuff", "gas-pressure": "gas", "fridge": "fridge", "ct": "ct", "room-sensor": "room",
    "patient-chart": "chart",
})  # fmt: skip
MODELS: Final = tuple(name for name in ID_PREFIX if name != "gateway")  # index = the plan's model column
