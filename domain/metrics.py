"""The metric table: one row for each measurable quantity, for the whole platform.

Ids are on disk and on the wire: rows are added, never renumbered. MDC codes are IEEE 11073-10101, LOINC codes
are those of HL7 FHIR vital signs and LOINC 2.7x; None where the vocabularies have no code we could verify.
Plausible ranges say what a working sensor can show on a living patient or in a standing building; they mark
readings, they never drop one (a dying patient's values are implausible). Clause 6.1d.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from domain.ages import AgeBand
from domain.errors import InvalidInput


class Group(StrEnum):
    VITAL = "vital-signs"
    VENTILATION = "ventilation"
    INFUSION = "infusion-nursing"
    ACTIVITY = "posture-activity"
    ENVIRONMENT = "environment"
    EQUIPMENT = "equipment"
    POSITION = "position"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Metric:
    """`precision`: the step a chart shows (0.1, 1); `plausible`: (low, high) in `unit`, with exceptions by age band."""

    id: int
    code: str
    name_en: str
    name_zh: str
    unit: str
    group: Group
    plausible: tuple[float, float]
    precision: float = 1.0
    mdc: int | None = None
    loinc: str | None = None
    plausible_by_age: tuple[tuple[AgeBand, float, float], ...] = ()
    codes: tuple[tuple[int, str], ...] = ()  # enumeration of a coded metric; empty for a quantity

    def plausible_range(self, band: AgeBand) -> tuple[float, float]:
        """(low, high), inclusive, for `band`."""
        return next(((low, high) for b, low, high in self.plausible_by_age if b == band), self.plausible)


_B = AgeBand
_G = Group
_OFF_ON = ((0, "off"), (1, "on"))
_OK_FAULT = ((0, "normal"), (1, "fault"))

METRICS: Final[tuple[Metric, ...]] = (
    # vital signs
    Metric(1, "heart_rate", "Heart rate (ECG)", "心率", "/min", _G.VITAL, (0, 300), mdc=147842, loinc="8867-4"),
    Metric(2, "pulse_rate", "Pulse rate (plethysmograph)", "脉率", "/min", _G.VITAL, (0, 300), mdc=149530, loinc="8889-8"),
    Metric(3, "resp_rate", "Respiratory rate", "呼吸频率", "/min", _G.VITAL, (0, 100), mdc=151562, loinc="9279-1",
           plausible_by_age=((_B.NEONATE, 0, 150), (_B.INFANT, 0, 150))),
    Metric(4, "spo2", "Oxygen saturation (pulse oximetry)", "血氧饱和度", "%", _G.VITAL, (30, 100), mdc=150456, loinc="59408-5"),
    Metric(5, "body_temp", "Body temperature", "体温", "Cel", _G.VITAL, (24, 45), 0.1, mdc=150344, loinc="8310-5"),
    Metric(6, "nibp_sys", "Systolic pressure (cuff)", "无创收缩压", "mm[Hg]", _G.VITAL, (20, 300), mdc=150021, loinc="76534-7"),
    Metric(7, "nibp_dia", "Diastolic pressure (cuff)", "无创舒张压", "mm[Hg]", _G.VITAL, (5, 220), mdc=150022, loinc="76535-4"),
    Metric(8, "nibp_mean", "Mean pressure (cuff)", "无创平均压", "mm[Hg]", _G.VITAL, (10, 250), mdc=150023, loinc="76536-2"),
    Metric(9, "abp_sys", "Systolic pressure (arterial line)", "有创收缩压", "mm[Hg]", _G.VITAL, (10, 350), mdc=150033, loinc="76215-3"),
    Metric(10, "abp_dia", "Diastolic pressure (arterial line)", "有创舒张压", "mm[Hg]", _G.VITAL, (0, 250), mdc=150034, loinc="76213-8"),
    Metric(11, "abp_mean", "Mean pressure (arterial line)", "有创平均压", "mm[Hg]", _G.VITAL, (5, 300), mdc=150035, loinc="76214-6"),
    Metric(12, "cvp_mean", "Central venous pressure", "中心静脉压", "mm[Hg]", _G.VITAL, (-15, 60), mdc=150087, loinc="60985-9"),
    Metric(13, "perfusion_index", "Perfusion index", "灌注指数", "%", _G.VITAL, (0, 20), 0.01, mdc=150488, loinc="61006-3"),
    Metric(14, "sao2", "Oxygen saturation (blood gas)", "动脉血氧饱和度", "%", _G.VITAL, (20, 100), mdc=150324, loinc="2708-6"),
    Metric(15, "gcs_total", "Glasgow coma scale, total", "格拉斯哥昏迷评分", "{score}", _G.VITAL, (3, 15), mdc=153728, loinc="9269-2"),
    Metric(16, "acvpu", "Consciousness (ACVPU)", "意识水平", "{code}", _G.VITAL, (0, 4),
           codes=((0, "alert"), (1, "confusion"), (2, "voice"), (3, "pain"), (4, "unresponsive"))),
    Metric(17, "oxygen_therapy", "Air or supplemental oxygen", "吸氧状态", "{code}", _G.VITAL, (0, 1), codes=((0, "air"), (1, "oxygen"))),
    Metric(18, "glucose", "Glucose (capillary)", "血糖", "mmol/L", _G.VITAL, (0.3, 60), 0.1, mdc=160184, loinc="14743-9"),
    Metric(19, "lactate", "Lactate", "乳酸", "mmol/L", _G.VITAL, (0, 40), 0.1, loinc="2524-7"),
    Metric(20, "body_weight", "Body weight", "体重", "kg", _G.VITAL, (20, 400), 0.1, mdc=188736, loinc="29463-7",
           plausible_by_age=((_B.NEONATE, 0.3, 8), (_B.INFANT, 1, 20), (_B.TODDLER, 4, 40), (_B.PRESCHOOL, 6, 60),
                             (_B.SCHOOL, 10, 120))),
    Metric(21, "body_height", "Body height", "身高", "cm", _G.VITAL, (25, 250), mdc=188740, loinc="8302-2"),
    Metric(22, "st_deviation", "ST deviation", "ST段偏移", "mV", _G.VITAL, (-2, 2), 0.01, mdc=131840),
    # ventilation
    Metric(30, "etco2", "End-tidal CO2", "呼气末二氧化碳", "mm[Hg]", _G.VENTILATION, (0, 150), mdc=151708, loinc="19891-1"),
    Metric(31, "fio2", "Fraction of inspired oxygen", "吸入氧浓度", "%", _G.VENTILATION, (21, 100), mdc=152196, loinc="3150-0"),
    Metric(32, "tidal_volume", "Tidal volume", "潮气量", "mL", _G.VENTILATION, (0, 3000), mdc=151868, loinc="76222-9"),
    Metric(33, "minute_volume", "Minute volume", "分钟通气量", "L/min", _G.VENTILATION, (0, 60), 0.1, mdc=151880),
    Metric(34, "peep", "Positive end-expiratory pressure", "呼气末正压", "cm[H2O]", _G.VENTILATION, (0, 50), 0.1, mdc=151976, loinc="76248-4"),
    Metric(35, "peak_pressure", "Peak airway pressure", "气道峰压", "cm[H2O]", _G.VENTILATION, (0, 120), 0.1, mdc=151973, loinc="76531-3"),
    Metric(36, "vent_rate", "Respiratory rate (ventilator)", "呼吸机频率", "/min", _G.VENTILATION, (0, 150), mdc=151586, loinc="33438-3"),
    Metric(37, "mechanical_ventilation", "Mechanical ventilation", "机械通气", "{code}", _G.VENTILATION, (0, 1), codes=_OFF_ON),
    Metric(38, "co2_resp_rate", "Respiratory rate (capnography)", "呼末CO2呼吸频率", "/min", _G.VENTILATION, (0, 150), mdc=151594),
    # infusion and nursing
    Metric(40, "infusion_rate", "Infusion rate", "输液速度", "mL/h", _G.INFUSION, (0, 1500), 0.1, mdc=158014),
    Metric(41, "volume_infused", "Volume infused", "已输液量", "mL", _G.INFUSION, (0, 20000), 0.1, mdc=157993),
    Metric(42, "volume_to_be_infused", "Volume to be infused", "待输液量", "mL", _G.INFUSION, (0, 20000), 0.1, mdc=157872),
    Metric(43, "infusion_time_remaining", "Infusion time remaining", "剩余输液时间", "s", _G.INFUSION, (0, 604800), mdc=157916),
    Metric(44, "infusion_status", "Pump status", "输液泵状态", "{code}", _G.INFUSION, (0, 3), mdc=184519,
           codes=((0, "stopped"), (1, "infusing"), (2, "standby"), (3, "occluded"))),
    Metric(45, "urine_output", "Urine output", "尿量", "mL", _G.INFUSION, (0, 6000), loinc="9187-6"),
    # posture and activity
    Metric(50, "posture", "Posture", "体位", "{code}", _G.ACTIVITY, (0, 6),
           codes=((0, "unknown"), (1, "supine"), (2, "prone"), (3, "left"), (4, "right"), (5, "sitting"), (6, "standing"))),
    Metric(51, "step_count", "Step count", "步数", "{count}", _G.ACTIVITY, (0, 200000), loinc="55423-8"),
    Metric(52, "activity_level", "Activity level", "活动量", "%", _G.ACTIVITY, (0, 100)),
    Metric(53, "bed_occupied", "Bed occupied", "在床状态", "{code}", _G.ACTIVITY, (0, 1), codes=((0, "empty"), (1, "occupied"))),
    Metric(54, "skin_temp", "Skin temperature", "皮肤温度", "Cel", _G.ACTIVITY, (10, 45), 0.1, mdc=150388, loinc="39106-0"),
    # environment
    Metric(60, "room_temp", "Room temperature", "室温", "Cel", _G.ENVIRONMENT, (-20, 60), 0.1),
    Metric(61, "room_humidity", "Relative humidity", "相对湿度", "%", _G.ENVIRONMENT, (0, 100)),
    Metric(62, "co2_concentration", "Carbon dioxide in air", "二氧化碳浓度", "[ppm]", _G.ENVIRONMENT, (250, 40000)),
    Metric(63, "pm25", "Particulate matter 2.5", "PM2.5", "ug/m3", _G.ENVIRONMENT, (0, 2000)),
    Metric(64, "smoke", "Smoke", "烟雾", "{code}", _G.ENVIRONMENT, (0, 1), codes=((0, "clear"), (1, "smoke"))),
    Metric(65, "illuminance", "Illuminance", "照度", "lx", _G.ENVIRONMENT, (0, 200000)),
    Metric(66, "noise", "Noise level", "噪声", "dB", _G.ENVIRONMENT, (0, 140)),
    Metric(67, "oxygen_supply_pressure", "Oxygen supply pressure", "氧气管网压力", "kPa", _G.ENVIRONMENT, (0, 1600)),
    Metric(68, "vacuum_pressure", "Vacuum supply pressure", "负压吸引压力", "kPa", _G.ENVIRONMENT, (-101, 0), 0.1),
    Metric(69, "air_supply_pressure", "Medical air pressure", "压缩空气压力", "kPa", _G.ENVIRONMENT, (0, 1600)),
    Metric(70, "differential_pressure", "Room differential pressure", "房间压差", "Pa", _G.ENVIRONMENT, (-200, 200)),
    # equipment state and energy
    Metric(80, "fridge_temp", "Fridge temperature", "冰箱温度", "Cel", _G.EQUIPMENT, (-100, 60), 0.1),
    Metric(81, "door_open", "Door open", "门状态", "{code}", _G.EQUIPMENT, (0, 1), codes=((0, "closed"), (1, "open"))),
    Metric(82, "active_power", "Active power", "有功功率", "W", _G.EQUIPMENT, (0, 500000)),
    Metric(83, "energy_total", "Energy consumed", "累计用电量", "kW.h", _G.EQUIPMENT, (0, 1e9), 0.01),
    Metric(84, "mains_voltage", "Mains voltage", "供电电压", "V", _G.EQUIPMENT, (0, 480)),
    Metric(85, "battery", "Battery level", "电池电量", "%", _G.EQUIPMENT, (0, 100), mdc=67996),
    Metric(86, "running_state", "Running state", "运行状态", "{code}", _G.EQUIPMENT, (0, 4),
           codes=((0, "off"), (1, "standby"), (2, "running"), (3, "fault"), (4, "maintenance"))),
    Metric(87, "operating_hours", "Operating time", "累计运行时间", "s", _G.EQUIPMENT, (0, 1e10)),
    Metric(88, "exposure_count", "Exposures", "曝光次数", "{count}", _G.EQUIPMENT, (0, 1e9)),
    Metric(89, "tube_temp", "X-ray tube temperature", "球管温度", "Cel", _G.EQUIPMENT, (0, 200), 0.1),
    Metric(90, "self_test", "Self-test result", "自检结果", "{code}", _G.EQUIPMENT, (0, 1), codes=_OK_FAULT),
    # position (WGS 84)
    Metric(100, "latitude", "Latitude", "纬度", "deg", _G.POSITION, (-90, 90), 1e-6),
    Metric(101, "longitude", "Longitude", "经度", "deg", _G.POSITION, (-180, 180), 1e-6),
    Metric(102, "zone", "Zone", "区域编号", "{code}", _G.POSITION, (0, 65535)),
    # scores: derived readings, source = the scorer that made them
    Metric(120, "news2", "NEWS2 total", "NEWS2评分", "{score}", _G.SCORE, (0, 20)),
    Metric(121, "anomaly_score", "Anomaly score (robust z)", "异常评分", "{score}", _G.SCORE, (0, 1e6), 0.01),
)  # fmt: skip

BY_ID: Final = MappingProxyType({metric.id: metric for metric in METRICS})
BY_CODE: Final = MappingProxyType({metric.code: metric for metric in METRICS})
BY_MDC: Final = MappingProxyType({metric.mdc: metric for metric in METRICS if metric.mdc})
MAX_ID: Final = max(BY_ID)


def metric_of(code: str) -> Metric:
    """The row named `code`; raises InvalidInput for an unknown one."""
    metric = BY_CODE.get(code)
    if metric is None:
        raise InvalidInput(f"metric {code!r} is unknown: expected one of the metric table's codes, such as 'heart_rate'")
    return metric


def _plausible_table() -> tuple[np.ndarray, np.ndarray]:
    low = np.full((MAX_ID + 1, len(AgeBand)), -np.inf)
    high = np.full((MAX_ID + 1, len(AgeBand)), np.inf)
    for metric in METRICS:
        for band in AgeBand:
            low[metric.id, band], high[metric.id, band] = metric.plausible_range(band)
    return low, high


PLAUSIBLE_LOW, PLAUSIBLE_HIGH = _plausible_table()  # [metric id, age band]; unused ids are unbounded
