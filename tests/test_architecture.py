"""Rules of the house that no linter knows: sizes, where time, chance, print and the environment may be touched."""

from __future__ import annotations

import ast
import logging
import re
import sys
from typing import Final

import pytest

from tests.source_tree import PACKAGES, ROOT, dotted, modules, name_of, nodes, tree_of

MAX_MODULE_LINES: Final = 450
MAX_FUNCTION_LINES: Final = 60

# path or path:function -> why it may be longer
SIZE_EXCEPTIONS: Final[dict[str, str]] = {
    "runtime/sql/migrations/versions/0001_first.py:upgrade": "a migration is one list of statements, frozen once released",
    "runtime/log_verifier.py": "it is handed out alone, to people who do not trust us: one file, with all that it needs",
}

CLOCKS: Final = re.compile(r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns))$")
CHANCE: Final = re.compile(r"^(random|np\.random|numpy\.random)\.")
CLOCK_HOMES: Final = {"runtime/clock.py"}
CHANCE_HOMES: Final = {"sim/rng.py"}
VAGUE_NAMES: Final = {"util", "utils", "helper", "helpers", "common", "manager", "misc", "base"}
RAY_HOMES: Final = re.compile(r"^(actors/shell\.py|cluster/.*)$")


def home(place: str) -> str:
    return place.partition(":")[0]


def test_modules_stay_small_enough_to_read():
    long = {name_of(path): n for path in modules(*PACKAGES, "tests", "benchmarks", "docs")
            if (n := path.read_text().count("\n")) > MAX_MODULE_LINES}  # fmt: skip
    assert set(long) <= set(SIZE_EXCEPTIONS), f"over {MAX_MODULE_LINES} lines: {long}"


def test_functions_stay_small_enough_to_read():
    everywhere = (*PACKAGES, "tests", "benchmarks", "docs")
    long = {f"{home(place)}:{node.name}": _code_lines(node)
            for place, node in (*nodes(ast.FunctionDef, *everywhere), *nodes(ast.AsyncFunctionDef, *everywhere))
            if _code_lines(node) > MAX_FUNCTION_LINES}  # fmt: skip
    assert set(long) <= set(SIZE_EXCEPTIONS), f"over {MAX_FUNCTION_LINES} lines: {long}"


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)


def test_the_time_of_day_is_asked_of_the_injected_clock():
    uses = [place for place, node in nodes(ast.Attribute, *PACKAGES) if CLOCKS.search(dotted(node))]
    imported = [place for place, node in nodes(ast.ImportFrom, *PACKAGES)
                if node.module == "time" and {alias.name for alias in node.names} & {"time", "time_ns"}]  # fmt: skip
    assert [place for place in uses + imported if home(place) not in CLOCK_HOMES] == []


def test_chance_comes_from_named_seeded_streams():
    uses = [place for place, node in nodes(ast.Attribute, *PACKAGES)
            if CHANCE.match(dotted(node)) and not dotted(node).endswith((".Generator", ".SeedSequence"))]  # fmt: skip
    imported = [place for place, node in nodes(ast.ImportFrom, *PACKAGES) if node.module in ("random", "numpy.random")]
    assert [place for place in uses + imported if home(place) not in CHANCE_HOMES] == []


def test_only_the_command_line_prints():
    uses = [place for place, node in nodes(ast.Call, *PACKAGES) if dotted(node.func) == "print"]
    assert [place for place in uses if not place.startswith("cluster/")] == []


def test_only_the_composition_root_reads_the_environment():
    uses = [place for place, node in nodes(ast.Attribute, *PACKAGES)
            if dotted(node) in ("os.environ", "os.getenv", "os.environb")]  # fmt: skip
    uses += [place for place, node in nodes(ast.Call, *PACKAGES) if dotted(node.func) in ("Settings", "Settings.load")]
    assert [place for place in uses if not place.startswith("cluster/")] == []


def test_package_files_hold_names_and_no_logic():
    allowed = (ast.Import, ast.ImportFrom)
    for path in modules(*PACKAGES):
        if path.name == "__init__.py":
            rest = [node for node in tree_of(path).body if not isinstance(node, allowed)
                    and not _is_docstring(node) and not _is_all(node)]  # fmt: skip
            assert rest == [], f"{name_of(path)} holds logic"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [dotted(target) for target in node.targets] == ["__all__"]


def test_modules_are_named_for_what_they_are():
    vague = [name_of(path) for path in modules(*PACKAGES) if path.stem in VAGUE_NAMES]
    assert vague == []


def test_no_top_level_package_hides_the_standard_library():
    assert set(PACKAGES) & set(sys.stdlib_module_names) == set()


def test_ray_is_known_to_the_shell_and_the_composition_root_alone():
    imports = [place for place, node in nodes(ast.Import, *PACKAGES) if any(a.name.split(".")[0] == "ray" for a in node.names)]
    imports += [place for place, node in nodes(ast.ImportFrom, *PACKAGES) if (node.module or "").split(".")[0] == "ray"]
    assert [place for place in imports if not RAY_HOMES.match(home(place))] == []


def test_the_key_provider_is_chosen_in_one_place():
    """A cryptographic module is put in there, and every process has it."""
    made = [place for place, node in nodes(ast.Call, *PACKAGES) if dotted(node.func) == "SoftKeys"]
    known = [place for place, node in nodes(ast.ImportFrom, *PACKAGES) if node.module == "runtime.soft_keys"]
    assert {home(place) for place in (*made, *known)} == {"runtime/key_provider.py"}


def test_nothing_is_left_for_later_in_the_code():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")
    left = [f"{name_of(path)}:{number}" for path in modules(*PACKAGES)
            for number, line in enumerate(path.read_text().splitlines(), 1) if marks.search(line)]  # fmt: skip
    assert left == []


@pytest.mark.parametrize("exception", sorted(SIZE_EXCEPTIONS) or ["pyproject.toml"])
def test_size_exceptions_name_what_exists(exception):
    assert (ROOT / home(exception)).exists()


def test_no_log_line_names_what_a_log_record_has_already() -> None:
    """`extra={"process": …}` raises KeyError where it is logged: in a keeper's loop that ends the keeper."""
    taken = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    found = []
    for place, node in nodes(ast.keyword, *PACKAGES):
        if node.arg == "extra" and isinstance(node.value, ast.Dict):
            names = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            found += [f"{place} {name}" for name in names & taken]
    assert found == []


LISTS_WITHOUT_REACH: Final = {
    "list_presets": "of one patient, of whom they are permitted",
    "list_team": "of one patient, of whom it is permitted",
    "list_grants": "of one user, of whom they are permitted",
    "list_writes": "of the region as a whole: a write has no place",
    "list_exports": "of the region as a whole: an export has no place",
    "list_risks": "of the region as a whole: a risk has no place",
}


@pytest.mark.clause("9.3c")
def test_list_functions_take_a_reach():
    """No default: whoever lists, counts or searches says what of it the caller may see."""
    without = []
    for path in (*modules("runtime"), ROOT / "api" / "selection.py"):
        if path.parent.name != "sql" and path.name != "selection.py":
            continue
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("list_", "count_", "search", "select_")):
                required = [
                    one.arg for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if not value
                ]
                if "reach" not in required and node.name not in LISTS_WITHOUT_REACH:
                    without.append(f"{name_of(path)}:{node.name}")
    assert without == []
