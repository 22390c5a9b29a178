"""Patients, what was on them, what was entered for them. Names appear here and in no other answer."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedName, MaskedRef, MaskedText, shown_name, shown_note, shown_ref, shown_text
from api.times import Rfc3339, Zone, maybe_instant
from domain.labels import label_of
from domain.permissions import Level, View
from domain.ports import Receipt
from runtime.sql.associations import Touched
from runtime.sql.patients import NewPatient

Sex = Literal["female", "male", "other", "unknown"]
Scale = Literal[1, 2]


class PatientIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"hospital_id": "sz.h012", "ref": "MRN-10037", "name": "王芳", "sex": "female", "age_years": 67,
                 "ward_id": "icu", "bed_id": "icu-07", "admitted": "2026-11-23T08:00:00+08:00"}
            ]
        },
    )  # fmt: skip
    hospital_id: str
    ref: str = Field(min_length=1, max_length=64, description="The hospital's own number of this stay, unique in it.")
    name: str | None = Field(None, max_length=200)
    sex: Sex | None = None
    age_years: float | None = Field(None, ge=0, le=130)
    pregnant: bool = False
    spo2_scale: Scale = Field(1, description="NEWS2 scale 2 only where a clinician prescribed it.")
    ward_id: str | None = Field(None, max_length=64)
    bed_id: str | None = Field(None, max_length=64)
    admitted: Rfc3339 | None = Field(None, description="Now, if left out.")

    def to_new(self) -> NewPatient:
        facts = self.model_dump(exclude={"hospital_id", "admitted"})
        return NewPatient(**facts, admitted_us=maybe_instant(self.admitted) or 0)


class PatientChange(BaseModel):
    """Fields that are left out stay. Another ward and bed is a move."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"bed_id": "icu-09", "spo2_scale": 2}]})
    name: str | None = Field(None, max_length=200)
    sex: Sex | None = None
    age_years: float | None = Field(None, ge=0, le=130)
    pregnant: bool | None = None
    spo2_scale: Scale | None = None
    ward_id: str | None = Field(None, max_length=64)
    bed_id: str | None = Field(None, max_length=64)
    level: int | None = Field(None, ge=4, le=5, description="5: as sensitive as can be; null: as every patient (4).")


class Discharge(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"at": "2026-11-30T10:30:00+08:00"}, {}]})
    at: Rfc3339 | None = Field(None, description="Now, if left out.")


class MemberIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user": "li.na"}]})
    user: str = Field(max_length=64)
    until: Rfc3339 | None = Field(None, description="Open, if left out.")


class MemberOut(BaseModel):
    """A user treats a patient, or did, in this time."""

    patient_key: str
    user: str
    since: str
    until: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        since, until = zone.text(row["from_us"]), zone.maybe(row["until_us"])
        return cls(patient_key=row["patient_key"], user=row["name"], since=since, until=until)


class PatientOut(BaseModel):
    patient_key: str = Field(description="Opaque; the only name of a patient outside this resource.")
    handle: int
    hospital_id: str
    ref: MaskedRef
    name: MaskedName
    sex: str | None
    age_years: float | None
    pregnant: bool
    spo2_scale: int
    ward_id: str | None
    bed_id: str | None
    level: int = Field(description="How sensitive what is known of the patient is (GB/T 39725).")
    admitted: str
    discharged: str | None
    version: int
    erased: bool = Field(description="Name, reference and notes were destroyed; the rest stays under the key.")

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, view: View) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name in row}
        shown |= {"ref": shown_ref(row["ref"], view), "name": shown_name(row["name"], view)}
        shown["level"] = label_of("patients", row["level"]) or Level.STRICT
        return cls(**shown, admitted=zone.text(row["admitted_us"]), discharged=zone.maybe(row["discharged_us"]))


class AssociationIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"hospital_id": "sz.h012", "device_id": "mon-7", "patient_key": "3f0a…", "start": "2026-11-23T08:05:00+08:00"}
            ]
        },
    )  # fmt: skip
    hospital_id: str
    device_id: str
    patient_key: str
    start: Rfc3339 | None = Field(None, description="Now, if left out.")
    end: Rfc3339 | None = Field(None, description="Open, if left out.")


class AssociationEnd(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"end": "2026-11-24T09:00:00+08:00"}, {}]})
    end: Rfc3339 | None = Field(None, description="Now, if left out.")


class AssociationCorrection(BaseModel):
    """What was really so. Fields that are left out stay; `withdraw`: it never was."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"start": "2026-11-23T08:20:00+08:00"}, {"withdraw": True}]}
    )
    patient_key: str | None = None
    start: Rfc3339 | None = None
    end: Rfc3339 | None = None
    withdraw: bool = False


class AssociationOut(BaseModel):
    """Believed from `recorded` to `superseded` (null: still): the device was on the patient from `start` to `end`."""

    id: int
    device_handle: int
    patient_key: str
    start: str
    end: str | None
    recorded: str
    superseded: str | None
    who: str
    reason: MaskedText

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, view: View) -> Self:
        return cls(
            id=row["id"], device_handle=row["device_handle"], patient_key=row["patient_key"], start=zone.text(row["start_us"]),
            end=zone.maybe(row["end_us"]), recorded=zone.text(row["recorded_us"]), superseded=zone.maybe(row["superseded_us"]),
            who=row["who"], reason=shown_note(row["reason"], view),
        )  # fmt: skip


class Window(BaseModel):
    patient_keys: list[str]
    start: str
    end: str | None


class TouchedOut(BaseModel):
    """What was shown on the old belief. None of it is deleted; look at it again."""

    alarm_ids: list[str]
    scores: Window = Field(description="Scores of these patients in this window were computed on the old belief.")
    export_ids: list[int]

    @classmethod
    def of(cls, touched: Touched, zone: Zone) -> Self:
        window = Window(patient_keys=touched.patient_keys, start=zone.text(touched.from_us), end=zone.maybe(touched.until_us))
        return cls(alarm_ids=touched.alarm_ids, scores=window, export_ids=touched.export_ids)


class Corrected(BaseModel):
    association: AssociationOut
    touched: TouchedOut


class Observation(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metric: str = Field(description="Code of a metric of the thing model `patient-chart`.")
    value: float | bool | str = Field(description="A number, or the name of a coded value (`voice`, `oxygen`).")
    unit: str | None = Field(None, description="UCUM; the metric's own, if left out.")
    time: Rfc3339 | None = Field(None, description="Now, if left out.")


class ObservationsIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"observations": [{"metric": "acvpu", "value": "alert"}, {"metric": "oxygen_therapy", "value": "oxygen"},
                                  {"metric": "body_temp", "value": 38.4, "unit": "Cel", "time": "2026-11-23T08:10:00+08:00"}]}
            ]
        },
    )  # fmt: skip
    observations: list[Observation] = Field(min_length=1, max_length=200)


class ReceiptOut(BaseModel):
    """Proof that readings are kept: fsynced at this place of the stream."""

    receipt: str
    accepted: int

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        return cls(receipt=f"{receipt.shard}-{receipt.stream_sequence}", accepted=receipt.readings)


class PresetIn(BaseModel):
    """Limits in the metric's unit; null is no limit there. They rise from very low to very high."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"low": 88, "very_low": 84}]})
    very_low: float | None = None
    low: float | None = None
    high: float | None = None
    very_high: float | None = None

    def limits(self) -> tuple[float | None, float | None, float | None, float | None]:
        return (self.very_low, self.low, self.high, self.very_high)


class PresetOut(PresetIn):
    patient_key: str
    metric: str
    set: str

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        very_low, low, high, very_high = row["limits"]
        return cls(
            very_low=very_low, low=low, high=high, very_high=very_high, patient_key=row["patient_key"], metric=row["metric"],
            set=zone.text(row["set_us"]),
        )  # fmt: skip


class MaintenanceIn(BaseModel):
    """For one device, or for a whole ward: give one of the two."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"hospital_id": "sz.h012", "device_id": "mon-7", "until": "2026-11-23T18:00:00+08:00"}]
        },
    )
    hospital_id: str
    device_id: str | None = None
    ward_id: str | None = None
    start: Rfc3339 | None = Field(None, description="Now, if left out.")
    until: Rfc3339


class MaintenanceOut(BaseModel):
    id: int
    hospital_id: str
    device_handle: int | None
    ward_id: str | None
    start: str
    until: str
    who: str
    reason: MaskedText
    version: int

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name in row} | {"reason": shown_text(row["reason"])}
        return cls(**shown, start=zone.text(row["from_us"]), until=zone.text(row["until_us"]))
