"""UCUM units that devices send, and how each converts to the unit of a metric.

Conversion is linear: canonical = raw * factor + offset. A unit that has no row for a metric's canonical unit
is incompatible: the reading is rejected with `wrong-unit` and never feeds an alarm.
`code` is stored in the lake beside the raw value, so rows are only ever added.
Source: UCUM 2.1; HL7 and vendor spellings are aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CANONICAL = 0  # raw_unit code of a reading sent in its metric's own unit


@dataclass(frozen=True, slots=True)
class Unit:
    code: int
    ucum: str
    canonical: str
    factor: float
    offset: float = 0.0
    aliases: tuple[str, ...] = ()
    metric: str | None = None  # mass to amount of substance depends on the substance: such a row is for one metric only


UNITS: Final[tuple[Unit, ...]] = (
    Unit(1, "/min", "/min", 1.0, aliases=("bpm", "1/min", "{beats}/min", "{breaths}/min", "rpm", "次/min")),
    Unit(2, "Hz", "/min", 60.0, aliases=("1/s", "/s")),
    Unit(3, "%", "%", 1.0, aliases=("percent", "{percent}")),
    Unit(4, "1", "%", 100.0, aliases=("ratio", "{fraction}")),
    Unit(5, "mm[Hg]", "mm[Hg]", 1.0, aliases=("mmHg", "mm Hg")),
    Unit(6, "kPa", "mm[Hg]", 7.500616827),
    Unit(7, "Cel", "Cel", 1.0, aliases=("°C", "C", "degC", "℃")),
    Unit(8, "[degF]", "Cel", 5 / 9, -160 / 9, aliases=("°F", "F", "degF", "℉")),
    Unit(9, "K", "Cel", 1.0, -273.15),
    Unit(10, "cm[H2O]", "cm[H2O]", 1.0, aliases=("cmH2O",)),
    Unit(11, "mbar", "cm[H2O]", 1.019716, aliases=("hPa",)),
    Unit(12, "mL", "mL", 1.0, aliases=("ml", "cm3")),
    Unit(13, "L", "mL", 1000.0, aliases=("l",)),
    Unit(14, "L/min", "L/min", 1.0, aliases=("l/min",)),
    Unit(15, "mL/min", "L/min", 0.001, aliases=("ml/min",)),
    Unit(16, "mL/h", "mL/h", 1.0, aliases=("ml/h",)),
    Unit(17, "s", "s", 1.0, aliases=("sec",)),
    Unit(18, "min", "s", 60.0),
    Unit(19, "kPa", "kPa", 1.0),
    Unit(20, "bar", "kPa", 100.0),
    Unit(21, "[psi]", "kPa", 6.894757, aliases=("psi",)),
    Unit(22, "kg", "kg", 1.0),
    Unit(23, "g", "kg", 0.001),
    Unit(24, "[lb_av]", "kg", 0.45359237, aliases=("lb",)),
    Unit(25, "cm", "cm", 1.0),
    Unit(26, "m", "cm", 100.0),
    Unit(27, "mmol/L", "mmol/L", 1.0),
    Unit(28, "mg/dL", "mmol/L", 1 / 18.016, metric="glucose"),
    Unit(29, "W", "W", 1.0),
    Unit(30, "kW", "W", 1000.0),
    Unit(31, "kW.h", "kW.h", 1.0, aliases=("kWh",)),
    Unit(32, "V", "V", 1.0),
    Unit(33, "Pa", "Pa", 1.0),
    Unit(34, "[ppm]", "[ppm]", 1.0, aliases=("ppm",)),
    Unit(35, "lx", "lx", 1.0, aliases=("lux",)),
    Unit(36, "dB", "dB", 1.0, aliases=("dB(A)",)),
    Unit(37, "deg", "deg", 1.0, aliases=("°",)),
    Unit(38, "m", "m", 1.0),
    Unit(39, "kg/m2", "kg/m2", 1.0),
    Unit(40, "{score}", "{score}", 1.0),
    Unit(41, "{code}", "{code}", 1.0),
    Unit(42, "{count}", "{count}", 1.0, aliases=("{steps}", "steps")),
    Unit(43, "ug/m3", "ug/m3", 1.0, aliases=("µg/m3", "μg/m3")),
    Unit(44, "mV", "mV", 1.0),
    Unit(45, "{exposures}", "{count}", 1.0),
    Unit(46, "mg/dL", "mmol/L", 1 / 9.008, metric="lactate"),
)

_BY_SPELLING: Final = {
    (spelling, unit.canonical, unit.metric): unit for unit in UNITS for spelling in (unit.ucum, *unit.aliases)
}
_BY_CODE: Final = {unit.code: unit for unit in UNITS}


def find_unit(spelling: str, canonical: str, metric: str | None = None) -> Unit | None:
    """The row that turns `spelling` into `canonical`, the unit of `metric`; None when the two are incompatible.

    Without `metric`, rows that hold for one substance only (mg/dL of glucose) are not given.
    """
    text = spelling.strip()
    return _BY_SPELLING.get((text, canonical, metric)) or _BY_SPELLING.get((text, canonical, None))


def spelling_of(code: int) -> str | None:
    """The UCUM text of a stored unit code; None for `CANONICAL` or a code of a later version."""
    unit = _BY_CODE.get(code)
    return unit.ucum if unit else None


def accepted_units(canonical: str, metric: str | None = None) -> tuple[str, ...]:
    """The UCUM spellings that convert to `canonical` for `metric`, for error messages."""
    return tuple(unit.ucum for unit in UNITS if unit.canonical == canonical and unit.metric in (None, metric))
