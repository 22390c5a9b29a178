"""The kinds of device the platform knows out of the box. One row a model; see `domain.thing_models` for the words."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from domain.alarms import AlertType, Priority
from domain.errors import NotFound
from domain.thing_models import ChannelModel as Channel
from domain.thing_models import Criticality, Modality, ThingModel, check_model
from domain.thing_models import EventModel as Event

_I = Modality.INTERMITTENT
_E = Modality.ON_EVENT
_P = Priority
_ADVISORY = AlertType.ADVISORY
_BATTERY_LOW = Event("battery_low", _P.MEDIUM, counter="battery_ok")

# What bedside monitors seen in Chinese hospitals send for "no value" (Mindray, Comen and others; public captures).
MONITOR_SENTINELS: Final = (-999.0, -99.9, -100.0, -1.0, -10000.0, 8388607.0)

_CUFF = (
    Channel("nibp_sys", 900, _I, keys=("systolic", "sbp")),
    Channel("nibp_dia", 900, _I, keys=("diastolic", "dbp")),
    Channel("nibp_mean", 900, _I, keys=("mean_pressure", "map")),
)
_MONITOR = (
    Channel("heart_rate", keys=("hr", "heartRate")),
    Channel("pulse_rate", keys=("pr", "pulse", "pulseRate")),
    Channel("resp_rate", keys=("rr", "respRate", "respiratory_rate")),
    Channel("spo2", instances=2, keys=("SpO2",)),
    Channel("body_temp", 60, instances=2, keys=("temp", "temperature")),
    *_CUFF,
    Channel("abp_sys"), Channel("abp_dia"), Channel("abp_mean"), Channel("cvp_mean"),
    Channel("etco2"), Channel("perfusion_index"), Channel("st_deviation"),
)  # fmt: skip
_ZERO = (0.0,)

THING_MODELS: Final[tuple[ThingModel, ...]] = tuple(map(check_model, (
    ThingModel("monitor", 1, "Multi-parameter patient monitor", "多参数监护仪", Criticality.VITAL, _MONITOR, True, 69965,
               events=(Event("lead_off", _P.MEDIUM, counter="lead_on"), _BATTERY_LOW,
                       Event("alarm", _P.MEDIUM, _ADVISORY)), services=("set_alarm_limit", "start_nibp"),
               calibration_interval_days=365, no_measurement=MONITOR_SENTINELS),
    # MIMIC-II numerics: that recorder writes 0 where the module had no valid measurement (see tests/data/SOURCES.md)
    ThingModel("monitor-mimic2", 1, "Patient monitor, MIMIC-II recording", "监护仪(MIMIC-II记录)", Criticality.VITAL, (
        *(Channel(metric, 60, no_measurement=_ZERO) for metric in
          ("heart_rate", "abp_sys", "abp_dia", "abp_mean", "pulse_rate", "resp_rate", "spo2")),
        *(Channel(metric, 3600, _I, no_measurement=_ZERO) for metric in ("nibp_sys", "nibp_dia", "nibp_mean")),
    ), True, 69965),
    # PhysioNet/CinC 2012: nurse-verified chart values, irregular; -1 is "not recorded"
    ThingModel("icu-chart", 1, "ICU flow sheet (bedside gateway)", "重症监护记录单", Criticality.VITAL, tuple(
        Channel(metric, 3600, _I, no_measurement=(-1.0,)) for metric in
        ("heart_rate", "resp_rate", "sao2", "body_temp", "nibp_sys", "nibp_dia", "nibp_mean", "abp_sys", "abp_dia",
         "abp_mean", "gcs_total", "fio2", "mechanical_ventilation", "urine_output", "lactate", "body_weight",
         "body_height")), True),
    ThingModel("ventilator", 1, "Ventilator", "呼吸机", Criticality.VITAL, (
        Channel("vent_rate"), Channel("tidal_volume"), Channel("minute_volume"), Channel("peep"),
        Channel("peak_pressure"), Channel("fio2"), Channel("etco2"), Channel("running_state", modality=_E),
    ), True, 70001, events=(Event("apnoea", _P.HIGH, AlertType.PHYSIOLOGICAL), Event("disconnect", _P.HIGH, counter="connect"),
                            _BATTERY_LOW), calibration_interval_days=180, no_measurement=MONITOR_SENTINELS),
    ThingModel("infusion-pump", 1, "Infusion pump with channels", "多通道输液泵", Criticality.THERAPY, (
        Channel("infusion_rate", 5, instances=4), Channel("volume_infused", 5, instances=4),
        Channel("volume_to_be_infused", 5, instances=4), Channel("infusion_time_remaining", 5, instances=4),
        Channel("infusion_status", 5, _E, instances=4), Channel("battery", 60),
    ), True, 70049, events=(Event("occlusion", _P.HIGH), Event("air_in_line", _P.HIGH), Event("near_complete", _P.LOW),
                            _BATTERY_LOW), services=("set_rate",),
               calibration_interval_days=365),
    ThingModel("wearable", 1, "Wearable", "可穿戴设备", Criticality.SUPPORT, (
        Channel("pulse_rate", 5, keys=("heart_rate", "hr")), Channel("spo2", 60), Channel("skin_temp", 60),
        Channel("step_count", 60), Channel("posture", 60, _E), Channel("activity_level", 60),
        Channel("battery", 300), Channel("latitude", 60, _I), Channel("longitude", 60, _I),
    ), True, events=(Event("fall", _P.HIGH, _ADVISORY, is_happening=True),
                     Event("sos", _P.HIGH, _ADVISORY, is_happening=True),
                     Event("battery_low", _P.LOW, counter="battery_ok"))),
    ThingModel("bp-cuff", 1, "Blood pressure cuff", "电子血压计", Criticality.SUPPORT, (
        *_CUFF, Channel("pulse_rate", 900, _I), Channel("battery", 3600, _I)), True, calibration_interval_days=365),
    ThingModel("gas-pressure", 1, "Medical gas pressure sensor", "医用气体压力传感器", Criticality.FACILITY, (
        Channel("oxygen_supply_pressure", 5), Channel("air_supply_pressure", 5), Channel("vacuum_pressure", 5)),
               calibration_interval_days=180),
    ThingModel("fridge", 1, "Vaccine and blood fridge", "医用冰箱", Criticality.FACILITY, (
        Channel("fridge_temp", 60, instances=2, keys=("temperature", "temp")), Channel("door_open", 60, _E),
        Channel("active_power", 60)), calibration_interval_days=365),
    ThingModel("ct", 1, "CT scanner", "CT机", Criticality.SUPPORT, (
        Channel("running_state", 60, _E), Channel("tube_temp", 10), Channel("exposure_count", 60, _E),
        Channel("active_power", 10), Channel("energy_total", 60), Channel("operating_hours", 600, _I)),
               events=(Event("arc", _P.MEDIUM, is_happening=True), Event("cooling_fault", _P.MEDIUM)),
               calibration_interval_days=365),
    ThingModel("room-sensor", 1, "Ward environment sensor", "病房环境传感器", Criticality.FACILITY, (
        Channel("room_temp", 60), Channel("room_humidity", 60), Channel("co2_concentration", 60), Channel("pm25", 60),
        Channel("noise", 60), Channel("illuminance", 60), Channel("smoke", 60, _E),
        Channel("differential_pressure", 60))),
    # carries what people enter at the bedside and what the platform derives for a patient
    ThingModel("patient-chart", 1, "Patient chart (entered and derived values)", "患者记录", Criticality.VITAL, tuple(
        Channel(metric, 14400, _I) for metric in
        ("acvpu", "oxygen_therapy", "gcs_total", "body_temp", "resp_rate", "spo2", "nibp_sys", "nibp_dia", "pulse_rate",
         "urine_output", "glucose", "body_weight", "news2", "anomaly_score")), True),
    ThingModel("gateway", 1, "Hospital gateway", "医院网关", Criticality.SUPPORT, ()),
)))  # fmt: skip

BY_MODEL_ID: Final = MappingProxyType({model.id: model for model in THING_MODELS})
LATEST: Final = MappingProxyType({model.name: model for model in THING_MODELS})


def thing_model(name_or_id: str) -> ThingModel:
    """The model `monitor@1`, or the latest version of `monitor`; raises NotFound listing what exists."""
    model = BY_MODEL_ID.get(name_or_id) or LATEST.get(name_or_id)
    if model is None:
        raise NotFound(f"thing model {name_or_id!r} is unknown: expected one of {', '.join(sorted(LATEST))}")
    return model
