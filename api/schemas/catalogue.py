"""Metrics and thing models as the API shows them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from domain.metrics import Metric, metric_of
from domain.thing_models import ChannelModel, ThingModel
from domain.units import accepted_units


class MetricOut(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 1, "code": "heart_rate", "name_en": "Heart rate (ECG)", "name_zh": "心率", "unit": "/min",
                    "group": "vital-signs", "plausible_low": 0, "plausible_high": 300, "precision": 1.0, "mdc": 147842,
                    "loinc": "8867-4", "accepted_units": ["/min", "Hz"], "codes": {},
                }
            ]
        }
    )  # fmt: skip

    id: int
    code: str
    name_en: str
    name_zh: str
    unit: str
    group: str
    plausible_low: float
    plausible_high: float
    precision: float
    mdc: int | None
    loinc: str | None
    accepted_units: list[str]
    codes: dict[int, str]

    @classmethod
    def of(cls, metric: Metric) -> Self:
        return cls(
            id=metric.id, code=metric.code, name_en=metric.name_en, name_zh=metric.name_zh, unit=metric.unit,
            group=metric.group.value, plausible_low=metric.plausible[0], plausible_high=metric.plausible[1],
            precision=metric.precision, mdc=metric.mdc, loinc=metric.loinc,
            accepted_units=list(accepted_units(metric.unit)), codes=dict(metric.codes),
        )  # fmt: skip


class ChannelOut(BaseModel):
    metric: str
    period_s: float
    modality: str
    instances: int
    keys: list[str]
    no_measurement: list[float]

    @classmethod
    def of(cls, channel: ChannelModel) -> Self:
        return cls(
            metric=channel.metric, period_s=channel.period_s, modality=channel.modality.name.lower(),
            instances=channel.instances, keys=list(channel.keys), no_measurement=list(channel.no_measurement),
        )  # fmt: skip


class ThingModelOut(BaseModel):
    id: str
    title_en: str
    title_zh: str
    criticality: str
    patient_bound: bool
    mdc: int | None
    events: list[str]
    services: list[str]
    calibration_interval_days: int | None
    no_measurement: list[float]
    channels: list[ChannelOut]

    @classmethod
    def of(cls, model: ThingModel) -> Self:
        return cls(
            id=model.id, title_en=model.title_en, title_zh=model.title_zh, criticality=model.criticality.name.lower(),
            patient_bound=model.patient_bound, mdc=model.mdc, events=list(model.by_event), services=list(model.services),
            calibration_interval_days=model.calibration_interval_days, no_measurement=list(model.no_measurement),
            channels=[ChannelOut.of(channel) for channel in model.channels],
        )  # fmt: skip


def thing_description(model: ThingModel) -> dict[str, Any]:
    """The model as a W3C WoT Thing Model document (TD 1.1 vocabulary, `tm:ThingModel`)."""
    return {
        "@context": ["https://www.w3.org/2022/wot/td/v1.1", {"qudt": "http://qudt.org/schema/qudt/"}],
        "@type": "tm:ThingModel",
        "id": f"urn:vitalgrid:thing-model:{model.id}",
        "title": model.title_en,
        "titles": {"en": model.title_en, "zh": model.title_zh},
        "version": {"model": f"{model.version}.0.0"},
        "properties": {channel.metric: _property(channel) for channel in model.channels},
        "events": {event: {"data": {"type": "string"}} for event in model.by_event},
        "actions": {service: {} for service in model.services},
    }


def _property(channel: ChannelModel) -> dict[str, Any]:
    metric = metric_of(channel.metric)
    return {
        "title": metric.name_en,
        "titles": {"en": metric.name_en, "zh": metric.name_zh},
        "type": "number",
        "unit": metric.unit,
        "minimum": metric.plausible[0],
        "maximum": metric.plausible[1],
        "readOnly": True,
        "observable": True,
        **({"oneOf": [{"const": code, "title": name} for code, name in metric.codes]} if metric.codes else {}),
    }
