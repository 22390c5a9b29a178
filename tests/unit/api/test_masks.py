"""How patients are masked, and that no field of any answer can forget it. Clause 9.3c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from api import masks
from api.masks import HIDDEN, MASKED, shown_name, shown_note, shown_ref, shown_text
from api.schemas.patients import PatientOut
from domain.permissions import View

# Fields of answers that tell of nobody who is treated, by what they are. A field that is new stands here, or is masked.
HARMLESS: Final = {
    "keys and counters that mean nothing outside": """
        accepted alarm_id alarm_ids device_handle event_id export_ids gateway_handle handle handles id members number
        left_out_handles patient_key patient_keys pid receipt trace rejects
        reject_id request_id resubmitted_as run_id sequence session source stream_sequence
        version""",
    "places and equipment": """
        attributes bed_id beds channels clock_offset_s clock_offset_us clock_uncertainty_us clocks_off device device_id devices
        district from_shard has_token host hospital hospital_id hosts is_alone model moving placement shard shards tier to_shard
        ward_id wanted needs_certificate ward bed maker firmware credential client over_tls""",
    "what is so at a time, of whomever the key is": """
        acknowledged admitted age_s age_years ambiguous arrival begun bucket created discharged end ended erased event_time
        given last_arrival last_event last_login last_time last_used locked_until onset password_changed paused_until pregnant
        raised received requested released issued oldest as_of lifted at notified due refused_until first_time last_time
        first_seen after before answered recorded revoked set sex since spo2_scale start superseded time until until_us made""",
    "measurements and alarms": """
        alarm alert_type bucket_s count expected_per_min high inputs instance last latching limit live low marks max mean metric
        min mode notifications open origin outcome patient phase priority priority_name quality raw_unit raw_value
        received_per_min rule rule_version score scores state states text touched unit used validity value very_high
        very_low""",
    "the way of a message, without values": """
        kept_in steps senders sender protocol connection request peer size_bytes step after_ms facts fates fate where lake_file
        row_group in_rollups source_sequence first_sequence last_sequence missing messages metrics readings
        readings_in_message readings_of_others readings_not_listed unknown shown answers streams link route is_stream alarms
        alarms_of_others""",
    "how open to attack a device is, and that it is cut off": """
        findings points remedy fingerprint_parts fingerprint_parts_before changes matched is_isolated isolated patients
        credentials_revoked""",
    "how long things are kept, and that they are gone": """
        keeps days least_days why holds done certificate entry proof vkeys too_late_for""",
    "the catalogue": """
        accepted_units calibration_interval_days code codes criticality events fields group instances keys kind loinc mdc
        modality name_en name_zh no_measurement patient_bound period_s plausible_high plausible_low precision services
        title_en title_zh""",
    "people at work, their accounts and rights": """
        access_token acknowledged_by action active address ends expires_in factors first_password grants level otherwise
        level_of_own_patients must must_change principal purposes recovery_codes recovery_codes_left refresh_token
        relation resubmitted_by rights role roles second_factor secret signed_in token uri user who made_by claim_code
        fingerprint serial isolated_by confirmed_by released_by lifted_by""",
    "the platform": """
        association checks dedicated door dry_run error free_bytes incomplete_shards intended_use is_cut items lag lake_version
        live_unavailable next ok path place ready refused region reports row rows says silent_s status storage target title
        topic total type""",
    "what a device proves with who it is": "has_certificate certificate_until",
    "where a program meets the bus": "asks hears inbox",
    "what a device sent, for those who repair devices": "payload_base64 payload_bytes payload_text",
    "what was asked for in an export; parts of names are taken out where it is recorded": "query",
    "of the access log: actions, opaque keys, sealed reasons": "commitment event event_bytes index salt what",
    "the register of risks: counts, roles, names of accounts": """
        accepted_until changed evidence found history likelihood owner risk seen severity subject""",
    "of a write: never names (records.log_write); a note in it is masked (WriteOut)": "detail",
}
NAMED: Final = {  # words that may tell of a patient, and do not here
    "name": {"BedOut", "CheckOut", "FirstPassword", "HospitalOut", "HostOut", "PermissionsOut", "MeOut", "PlaceOut",
             "TokenMade", "api__schemas__access__TokenOut", "UserOut", "WardOut"},
    "note": {"InputOut"},
    "reason": {"Problem", "RejectOut", "RejectShown", "RefusedOut"},
}  # fmt: skip


@pytest.mark.clause("9.3c")
def test_every_field_of_every_answer_is_masked_or_known_harmless(plain_app: FastAPI) -> None:
    harmless = {field for fields in HARMLESS.values() for field in fields.split()}
    fields = list(_fields_of_answers(plain_app.openapi()))
    unknown = [
        f"{schema}.{field}" for schema, field, is_masked in fields
        if not is_masked and field not in harmless and schema not in NAMED.get(field, ())
    ]  # fmt: skip
    assert unknown == []
    assert {f"{schema}.{field}" for schema, field, is_masked in fields if is_masked} == {
        "PatientOut.name", "PatientOut.ref", "AlarmOut.note", "AssociationOut.reason", "MaintenanceOut.reason",
        "WriteOut.reason", "AuditEventOut.why", "AccessOut.why", "RiskOut.title", "RiskOut.measure", "RiskEventOut.note",
        "IsolationOut.reason", "IsolationOut.release_reason", "HoldOut.reason", "ErasureOut.reason",
    }  # fmt: skip


def _fields_of_answers(document: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    schemas, seen = document["components"]["schemas"], set[str]()
    todo = [
        name for path in document["paths"].values() for operation in path.values() for name in _refs(operation["responses"])
    ]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += _refs(schemas[name])
            yield from ((name, field, MASKED in said) for field, said in schemas[name].get("properties", {}).items())


def _refs(part: Any) -> Iterator[str]:
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict) and "$ref" in part:
        yield part["$ref"].rpartition("/")[2]
    for one in parts:
        yield from _refs(one)


@pytest.mark.clause("9.3c")
def test_a_masked_field_takes_no_text_that_was_through_no_masker() -> None:
    with pytest.raises(ValidationError):
        PatientOut.model_validate({"name": "王小芳"})
    errors = PatientOut.__pydantic_validator__.validate_assignment  # the field itself, not the lack of others
    shown = PatientOut.model_construct()
    with pytest.raises(ValidationError, match="instance of Shown"):
        errors(shown, "name", "王小芳")


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize(
    ("mask", "text", "shown"),
    [
        (masks.name_of, "张三", "张**"), (masks.name_of, "欧阳娜娜", "欧**"), (masks.name_of, "Anna Li", "A***"),
        (masks.name_of, " ", HIDDEN),
        (masks.hospital_number, "MRN-10037", "***37"), (masks.hospital_number, "1037", HIDDEN),
        (masks.id_number, "11010519491231002X", "110***********002X"), (masks.id_number, "110105194912310021", HIDDEN),
        (masks.id_number, "440524188001010014", "440***********0014"), (masks.id_number, "12345", HIDDEN),
        (masks.telephone, "13800131234", "138****1234"), (masks.telephone, "+86 138 0013 1234", "138****1234"),
        (masks.telephone, "0755-12345678", "***78"), (masks.telephone, "120", HIDDEN),
        (masks.address, "广东省深圳市福田区深南大道1号", "广东省深圳市福田区***"),
        (masks.address, "北京市海淀区中关村", "北京市海淀区***"),
        (masks.address, "Main Street 1", HIDDEN),
        (masks.birth_date, "1949-12-31", "1949"), (masks.birth_date, "31.12.1949", HIDDEN),
        (masks.free_text, "号 11010519491231002X 电话13800131234。", "号 110***********002X 电话138****1234。"),
        (masks.free_text, "sequence 110105194912310021", "sequence 110105194912310021"),
        (masks.free_text, "患者身份证11010519491231002X请核对", "患者身份证110***********002X请核对"),
        (masks.free_text, "电话是13800131234请回电", "电话是138****1234请回电"),
        (masks.free_text, "电话+8613800131234请回电", "电话138****1234请回电"),
        (masks.free_text, "rang 86-138 0013 1234, or 0086 13800131234", "rang 138****1234, or 138****1234"),
        (masks.free_text, "stream 5138001312340", "stream 5138001312340"),
    ],
)  # fmt: skip
def test_what_is_masked_keeps_little(mask: Any, text: str, shown: str) -> None:
    assert mask(text) == shown


def test_a_position_is_told_to_a_hundred_metres() -> None:
    assert masks.position(22.5431234, 114.0578901) == (22.543, 114.058)


@pytest.mark.parametrize("view", View)
def test_fields_are_clear_in_a_clear_view_alone(view: View) -> None:
    is_clear = view is View.CLEAR
    assert shown_name("张三", view) == ("张三" if is_clear else "张**")
    assert shown_ref("MRN-10037", view) == ("MRN-10037" if is_clear else "***37")
    assert shown_note("张三 slept", view) == ("张三 slept" if is_clear else HIDDEN)
    assert shown_name(None, view) is None
    assert shown_text("rang 13800131234") == "rang 138****1234"
