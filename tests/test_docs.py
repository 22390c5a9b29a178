"""Documents say what the code does: commands exist, links hold, tables are those of the code, no machine leaks in."""

from __future__ import annotations

import re
import runpy
import tomllib
from types import SimpleNamespace

import pytest
import typer.main
from click import Group

from tests.conformance_plugin import Collector, clause_ids
from tests.source_tree import PACKAGES, ROOT, name_of, texts

DOCS = ROOT / "docs"
MARKDOWN = texts(".md")
HAND_WRITTEN = [
    path
    for path in MARKDOWN
    if path.name not in ("conformance.md", "settings.md", "metrics.md", "permissions.md", "retention.md", "security.md")
]
GENERATE = runpy.run_path(str(DOCS / "generate.py"))

every_page = pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
every_hand_written_page = pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)

FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")
VITALGRID = re.compile(r"(?:^|[\s`/$(])vitalgrid ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)")
ROUTE = re.compile(r"(?:/api/v1|\$API)(/[A-Za-z0-9_{}$./-]*)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def code_of(page):
    """Everything in a page that is set as code: fenced blocks and inline."""
    text = page.read_text()
    return "\n".join(FENCE.findall(text) + INLINE.findall(FENCE.sub("", text)))


@every_hand_written_page
def test_every_make_command_is_a_target(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE.findall(code_of(page))) <= targets


def test_the_readme_names_the_two_commands():
    code = code_of(ROOT / "README.md")
    assert "make run" in code
    assert "make test" in code


@pytest.fixture(scope="module")
def command_line():
    from cluster.cli import app  # noqa: PLC0415 (only here, so that the other guards need no platform)

    return typer.main.get_command(app)


@every_hand_written_page
def test_every_vitalgrid_command_exists(page, command_line):
    for words in VITALGRID.findall(code_of(page)):
        first, _, second = words.partition(" ")
        command = command_line.get_command(None, first)
        assert command is not None, f"vitalgrid {first}"
        if isinstance(command, Group) and second:
            assert second in command.commands, f"vitalgrid {words}"


@pytest.fixture(scope="module")
def routes():
    from api.routing import OPERATION, ROUTERS  # noqa: PLC0415
    from gateways.formats import FORMATS  # noqa: PLC0415

    paths = [route.path for router in (*ROUTERS, OPERATION) for route in router.routes] + [row.path for row in FORMATS]
    return [re.sub(r"\{[^}]*\}", "[^/]+", path.removeprefix("/api/v1")) for path in paths]


@every_hand_written_page
def test_every_route_exists(page, routes):
    for path in ROUTE.findall(code_of(page)):
        if path.rstrip("/"):
            assert any(re.fullmatch(route, path.rstrip("/.")) for route in routes), f"/api/v1{path}"


def test_the_runbook_watches_figures_that_are_there():
    watched = set(re.findall(r"\bvitalgrid_[a-z_]+", (DOCS / "runbook.md").read_text()))
    shown = set(re.findall(r"`(vitalgrid_[a-z_]+)`", GENERATE["prometheus_page"]()))
    assert watched
    assert watched - shown == set()


@every_page
def test_relative_links_lead_somewhere(page):
    links = [link for link in LINK.findall(FENCE.sub("", page.read_text())) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_settings_page_is_the_settings():
    assert (DOCS / "settings.md").read_text() == GENERATE["settings_page"](), "run `make docs`"


def test_the_metrics_page_is_the_metric_table():
    assert (DOCS / "metrics.md").read_text() == GENERATE["metrics_page"](), "run `make docs`"


def test_the_retention_page_is_what_the_rules_say():
    assert (DOCS / "retention.md").read_text() == GENERATE["retention_page"](), "run `make docs`"


def test_the_permissions_page_is_what_the_policies_say():
    assert (DOCS / "permissions.md").read_text() == GENERATE["permissions_page"](), "run `make docs`"


def test_the_security_page_is_made_of_its_controls():
    assert (DOCS / "security.md").read_text() == GENERATE["security_page"](), "run `make docs`"


@pytest.mark.clause("7.2a")
def test_every_control_names_tests_and_modules_that_are_there():
    """A table of controls that nobody checks would outlive what it speaks of."""
    controls = tomllib.loads((DOCS / "security_controls.toml").read_text())["control"]
    assert len({control["id"] for control in controls}) == len(controls)
    for control in controls:
        for module in control["where"]:
            assert (ROOT / module).exists(), f"{control['id']} names {module}"
        assert control["tests"] or control["state"] == "site", f"{control['id']} is shown by nothing"
        assert ("open" in control) == (control["state"] == "part"), control["id"]
        for test in control["tests"]:
            path, _, name = test.partition("::")
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (
                f"{control['id']} names {test}"
            )


def test_the_prometheus_page_is_what_the_platform_shows():
    assert (DOCS / "prometheus.md").read_text() == GENERATE["prometheus_page"](), "run `make docs`"


def stories():
    """Names of the scenarios in the repository."""
    return {path.stem for path in texts(".toml") if path.relative_to(ROOT).parts[0] == "scenarios"}


def test_every_scenario_is_told():
    page = (DOCS / "scenarios.md").read_text()
    assert len(stories()) >= 5
    assert [story for story in stories() if story not in page] == []


@every_hand_written_page
def test_every_scenario_a_page_runs_is_there(page):
    assert set(re.findall(r"vitalgrid scenario run ([a-z][a-z0-9-]*)", code_of(page))) <= stories()


def test_every_decision_is_listed_and_has_its_four_parts():
    listed = (DOCS / "decisions" / "README.md").read_text()
    decisions = sorted((DOCS / "decisions").glob("0*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        assert f"({path.name})" in listed
        heads = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences", "The pain"], path.name


def test_no_path_of_one_machine_is_in_any_file():
    here = re.compile(r"/(work|farm|home/[a-z]+|root|Users/[A-Za-z]+)/")
    leaks = [f"{name_of(path)}:{number}" for path in texts(
        ".py", ".md", ".toml", ".sh", ".html", ".jinja", ".j2", ".sql", ".json", ".yaml", ".cfg", ".css", ".js", ".mako",
    ) if path != ROOT / "tests" / "test_docs.py"
        for number, line in enumerate(path.read_text().splitlines(), 1) if here.search(line)]  # fmt: skip
    assert leaks == []


def test_pages_we_serve_load_nothing_from_elsewhere():
    outside = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import\s|url\(\s*["']?(?:https?:)?//""")
    pages = [path for path in texts(".html", ".jinja", ".j2", ".css", ".js") if path.relative_to(ROOT).parts[0] in PACKAGES]
    assert [name_of(path) for path in pages if outside.search(path.read_text())] == []


# conformance


@pytest.fixture
def outcomes():
    return {"6.3f": {"tests/a.py::one": "passed"}, "9.3d": {"tests/a.py::two": "passed"}, "5.4c": {
        "tests/a.py::three": "passed", "tests/a.py::four": "failed"}, "7.3": {"tests/a.py::five": "skipped"}}  # fmt: skip


def test_the_clauses_are_well_formed_and_whole():
    catalogue = tomllib.loads((DOCS / "clauses.toml").read_text())
    ids = clause_ids()
    assert len(ids) == len(set(ids)) == 66
    assert {clause["duty"] for clause in catalogue["clause"]} <= {"shall", "should", "supports", "allows", "may"}
    assert {fact["clause"] for fact in catalogue["cannot"]} <= set(ids)


def test_states_are_honest(outcomes):
    cannot = {"9.3d": "one copy"}
    state_of = GENERATE["state_of"]

    def state(id_, **more):
        return state_of({"id": id_, **more}, outcomes.get(id_, {}), cannot)[0]

    assert state("6.3f") == "partly"
    assert state("6.3f", complete=True) == "met"
    assert state("9.3d", complete=True) == "not met"
    assert state("5.4c", complete=True) == "not met"
    assert state("7.3", complete=True) == "no test yet"
    assert state("5.1", complete=True) == "no test yet"


def test_the_page_has_every_clause_and_the_reason_where_the_profile_cannot(outcomes):
    page = GENERATE["conformance_page"](outcomes)
    assert [id_ for id_ in clause_ids() if f"| {id_} |" not in page] == []
    assert "**not met**: one machine keeps one copy" in page
    assert "**not met**: 1 of 2 tests fail" in page


def test_the_committed_conformance_page_lists_every_clause():
    page = (DOCS / "conformance.md").read_text()
    assert [id_ for id_ in clause_ids() if f"| {id_} |" not in page] == []


class FakeItem:
    def __init__(self, nodeid, *ids):
        self.nodeid = nodeid
        self.marks = [pytest.mark.clause(*ids).mark]
        self.user_properties = []

    def iter_markers(self, name):
        return [mark for mark in self.marks if mark.name == name]

    def reported(self, outcome):
        return SimpleNamespace(nodeid=self.nodeid, outcome=outcome, user_properties=self.user_properties)


def test_a_marker_of_an_unknown_clause_stops_the_run():
    with pytest.raises(pytest.UsageError, match=r"test_x: '6\.3z'"):
        Collector.mark([FakeItem("test_x", "6.3z")])


def test_the_worst_outcome_of_a_tests_phases_counts():
    tests = x, y, of_no_clause = FakeItem("test_x", "6.3f"), FakeItem("test_y", "6.3f", "9.2c"), FakeItem("test_of_no_clause")
    Collector.mark(tests)
    collector = Collector()
    for outcome in ("passed", "failed", "passed"):
        collector.note(x.reported(outcome))
    collector.note(y.reported("passed"))
    collector.note(of_no_clause.reported("passed"))
    assert collector.outcomes == {"6.3f": {"test_x": "failed", "test_y": "passed"}, "9.2c": {"test_y": "passed"}}
