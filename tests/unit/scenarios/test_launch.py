"""Runs are known by their folders: progress, reports, and what became of one whose process is gone."""

from __future__ import annotations

import os

import msgspec
import pytest

from domain.errors import Conflict, InvalidInput, NotFound
from runtime.clock import ManualClock
from scenarios.launch import ScenarioRuns, latest_run, load_report, new_run_id
from scenarios.progress import ProgressBook, Stage
from scenarios.report.document import encode_report
from scenarios.verdicts import Verdict
from tests.report_samples import sample_report

RUN = "20261123-081005-wan-cut"


@pytest.fixture
def runs(tmp_path):
    return ScenarioRuns(tmp_path / "reports", tmp_path, ManualClock(1_795_421_405_000_000))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "reports" / RUN
    made.mkdir(parents=True)
    return made


def test_run_ids_sort_by_time_and_name_no_paths():
    assert new_run_id("stories/../wan-cut.toml", 1_795_421_405_000_000) == "20261123-081005-wan-cut"


def test_a_run_is_followed_by_its_progress_file(runs, folder):
    book = ProgressBook(folder, RUN, "wan-cut", 100.0)
    book.tell(stage=Stage.MEASURING, at_s=12.5, alarms=3)
    progress = runs.progress(RUN)
    assert (progress["stage"], progress["at_s"], progress["alarms"]) == ("measuring", 12.5, 3)
    assert [run["run_id"] for run in runs.list_runs()] == [RUN]


def test_a_run_whose_process_is_gone_has_failed(runs, folder):
    book = ProgressBook(folder, RUN, "wan-cut", 100.0)
    book.now = msgspec.structs.replace(book.now, pid=2**22 + 1)
    book.tell(stage=Stage.MEASURING)
    assert runs.progress(RUN)["stage"] == "failed"
    assert "ended before its report" in str(runs.progress(RUN)["detail"])


def test_a_finished_run_stays_finished(runs, folder):
    book = ProgressBook(folder, RUN, "wan-cut", 100.0)
    book.now = msgspec.structs.replace(book.now, pid=2**22 + 1)
    book.tell(stage=Stage.FINISHED, verdict=Verdict.PASS)
    assert runs.progress(RUN)["verdict"] == "pass"


async def test_one_run_at_a_time(runs, folder):
    ProgressBook(folder, RUN, "wan-cut", 100.0).tell(stage=Stage.MEASURING)
    assert runs.progress(RUN)["pid"] == os.getpid()
    with pytest.raises(Conflict, match="one run at a time"):
        await runs.start("wan-cut", {})


async def test_a_run_is_refused_before_it_starts(runs):
    with pytest.raises(NotFound, match="calm-district"):
        await runs.start("../secrets", {})
    with pytest.raises(InvalidInput, match="expected one of"):
        await runs.start("wan-cut", {"fleet.device": "5"})
    assert runs.list_runs() == []


@pytest.mark.parametrize("run_id", ["nope", "../../etc", "20261123-081005-../x", RUN])
def test_a_run_nobody_made_is_not_found(runs, run_id):
    with pytest.raises(NotFound):
        runs.progress(run_id)


def test_reports_are_read_in_both_forms(runs, folder):
    ProgressBook(folder, RUN, "wan-cut", 100.0).tell(stage=Stage.FINISHED)
    with pytest.raises(NotFound, match="has no report"):
        runs.report(RUN, "json")
    (folder / "report.json").write_bytes(encode_report(sample_report()))
    (folder / "report.html").write_text("<html>")
    assert runs.report(RUN, "html") == b"<html>"
    assert b"vitalgrid-report/1" in runs.report(RUN, "json")
    with pytest.raises(InvalidInput, match="'html' or 'json'"):
        runs.report(RUN, "pdf")


def test_reports_are_found_by_id_or_path(tmp_path, folder):
    with pytest.raises(NotFound, match="there is no report"):
        latest_run(tmp_path / "reports")
    (folder / "report.json").write_bytes(encode_report(sample_report()))
    assert latest_run(tmp_path / "reports") == RUN
    for name in (RUN, str(folder), str(folder / "report.json")):
        assert load_report(tmp_path / "reports", name).story.name == "wan-cut"
    with pytest.raises(NotFound, match="has no report"):
        load_report(tmp_path / "reports", "another")


def test_scenarios_are_listed_with_what_can_be_set(runs):
    listed = {one["name"]: one for one in runs.list_scenarios()}
    assert listed["wan-cut"]["settings"]["fleet"]["devices"] == 12_000
    assert listed["wan-cut"]["covers"]
