"""The report: its JSON is what its schema says, its page stands by itself, and it says what was not measured."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from domain.alarms import INTENDED_USE
from scenarios.report import document, plots
from scenarios.report.document import decode_report, encode_report, schema
from scenarios.report.page import render
from tests.report_samples import sample_report

SCHEMA_FILE = Path(document.__file__).with_name("schema.json")
VOID = {"meta", "br", "rect", "line", "path", "link", "img", "hr"}


@pytest.fixture(scope="module")
def page():
    return render(sample_report())


def test_the_schema_in_the_repository_is_that_of_the_report():
    assert json.loads(SCHEMA_FILE.read_text()) == schema()


def test_the_report_is_valid_by_its_schema_and_comes_back_as_it_was():
    report = sample_report()
    data = encode_report(report)
    jsonschema.validate(json.loads(data), json.loads(SCHEMA_FILE.read_text()))
    assert decode_report(data) == report


def test_a_report_that_lacks_its_ledger_field_is_not_valid():
    broken = json.loads(encode_report(sample_report()))
    broken["ledger"] = {"sent": "many"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema())


def test_the_page_fetches_nothing(page):
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<script|<link|<img|<iframe", page)


def test_the_page_is_well_formed(page):
    open_tags = []

    class Checker(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in VOID:
                assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []


def test_the_page_is_made_for_light_and_dark(page):
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page


def test_the_intended_use_stands_where_the_alarms_are(page):
    assert INTENDED_USE in page[page.index("<h2>Alarms</h2>") :]


def test_the_page_tells_verdict_command_commit_and_seed(page):
    report = sample_report()
    for fact in (report.verdict, report.provenance.command, report.provenance.commit, "seed 42", "warm-up"):
        assert str(fact) in page


def test_what_was_not_measured_says_so_and_never_passes():
    report = sample_report(query_complex_p99_ms=None)
    row = next(clause for clause in report.clauses if clause.clause == "7.1b")
    assert row.verdict == "not measured"
    assert report.verdict == "not measured"
    assert re.search(r"7\.1b.*?not measured", render(report), re.DOTALL)


def test_an_invalid_run_tells_why_and_has_no_pass_anywhere():
    report = sample_report(valid=False)
    assert {checked.verdict for checked in report.expectations} == {"INVALID"}
    page = render(report)
    assert "INVALID, not slow." in page
    assert 'v pass">pass' not in page


def test_a_lost_reading_is_named_in_the_page():
    report = sample_report()
    ledger = msgspec.structs.replace(report.ledger, lost=1, examples={"lost": [(17, 4242)]})
    page = render(msgspec.structs.replace(report, ledger=ledger))
    assert "(17, 4242)" in page


def test_texts_are_escaped():
    report = sample_report()
    story = msgspec.structs.replace(report.story, title="<b>bold</b> & more")
    page = render(msgspec.structs.replace(report, story=story))
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in page


def test_plots_of_nothing_say_that_nothing_was_measured():
    assert "not measured" in plots.time_plot([], y_title="x")
    assert "not measured" in plots.percentile_plot([plots.Series("a", [])])
    assert "not measured" in plots.verdict_bars([])


def test_a_logarithmic_axis_covers_its_values():
    svg = plots.latency_time_plot([plots.Series("a", [(0, 3.0), (5, 900.0)])])
    ticks = re.findall(r'class="tick" text-anchor="end">([^<]+)<', svg)
    assert ticks == ["1", "10", "100", "1\u202f000"]


@pytest.mark.parametrize(("value", "ceiling"), [(0, 1), (0.3, 0.5), (7, 10), (10, 10), (4_812, 5_000), (20_001, 25_000)])
def test_axes_end_at_round_numbers(value, ceiling):
    assert plots.nice_ceiling(value) == pytest.approx(ceiling)
