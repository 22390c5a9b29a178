"""Nothing is kept without a rule that says how long, and none is shorter than the law wants. Clauses 9.3a, 9.3h."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from domain import subjects
from domain.labels import LABELS
from domain.permissions import Level
from domain.personal_information import INVENTORY, OF_NOBODY
from domain.retention import FILES, RULES, End, too_short
from runtime.retention import Periods
from runtime.setting_sections import LakeSettings, RetentionSettings
from runtime.settings import Settings
from runtime.sql.retention import EXPIRING
from runtime.sql.tables import metadata

STREAMS = {value for name, value in vars(subjects).items() if name.endswith("_STREAM")}
STORED = set(metadata.tables) | STREAMS | {"readings"}


@pytest.mark.clause("9.3a")
@pytest.mark.clause("9.3h")
def test_every_table_stream_lake_table_and_kind_of_file_has_a_rule_and_nothing_else_does() -> None:
    assert set(RULES) == STORED | FILES
    assert set(LABELS) > STORED


@pytest.mark.clause("9.3")
@pytest.mark.clause("9.3a")
def test_every_kind_of_record_is_in_the_inventory_of_personal_information_or_of_nobody() -> None:
    assert set(INVENTORY) | OF_NOBODY == set(RULES)
    assert set(INVENTORY).isdisjoint(OF_NOBODY)
    assert {kind for kind in RULES if LABELS.get(kind, Level.PUBLIC) >= Level.IDENTIFYING} <= set(INVENTORY)
    for kind, one in INVENTORY.items():
        assert all((one.whose, one.what, one.purpose, one.basis)), kind


@pytest.mark.clause("9.3h")
def test_what_a_rule_deletes_is_deleted_by_somebody_and_each_says_how_long() -> None:
    for kind, rule in RULES.items():
        assert rule.why
        assert (rule.setting is None) == bool(rule.keeps), kind
    of_sql = {kind for kind, rule in RULES.items() if rule.end is End.DELETED and rule.setting and kind in metadata.tables}
    assert of_sql == set(EXPIRING)
    assert {kind: EXPIRING[kind].setting for kind in EXPIRING} == {kind: RULES[kind].setting for kind in EXPIRING}


@pytest.mark.clause("9.3h")
def test_a_period_below_the_laws_minimum_is_refused_but_for_trying_things() -> None:
    assert too_short("retention.inpatient_days", 10_958) is None
    assert "10958" in (too_short("retention.inpatient_days", 10_957) or "")
    short = {"inpatient_days": 1, "export_days": 1}
    assert Settings(retention=short, security={"profile": "dev"}).retention.inpatient_days == 1
    with pytest.raises(ValidationError, match=r"inpatient_days is 1 days.*export_days is 1 days"):
        Settings(retention=short, security={"profile": "standard"})
    usual = Periods.of(RetentionSettings(), LakeSettings())
    assert usual.days.keys() == {rule.setting for rule in RULES.values() if rule.setting}
    assert not [problem for setting, days in usual.days.items() if (problem := too_short(setting, days))]
