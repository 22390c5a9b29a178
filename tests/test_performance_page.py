"""The page of figures: each benchmark's table, and a plot of what has a bound."""

from __future__ import annotations

from xml.etree import ElementTree

from docs.generate import performance_page, performance_plot

SVG = "{http://www.w3.org/2000/svg}"
RESULT = {
    "subject": "bare-pipeline", "about": "The limit.", "script": "benchmarks/bench_bare.py", "quick": False,
    "machine": {"cores": 2, "python": "3.11", "system": "Linux"},
    "figures": [
        {"name": "rate", "value": 2_000_000.0, "unit": "readings/s", "bound": "≥ 1,000,000", "aim": ""},
        {"name": "wait <p99>", "value": 30.0, "unit": "ms", "bound": "≤ 20", "aim": "≤ 10"},
        {"name": "lost", "value": 0.0, "unit": "", "bound": "= 0", "aim": ""},
        {"name": "size", "value": 7.0, "unit": "KB", "bound": "", "aim": ""},
    ],
}  # fmt: skip


def test_every_figure_is_in_the_table() -> None:
    page = performance_page([RESULT])
    assert "## Bare pipeline" in page
    assert "| rate | 2,000,000 | readings/s | ≥ 1,000,000 |  |" in page
    assert all(f"| {figure['name']} |" in page for figure in RESULT["figures"])
    assert "performance.svg" in page


def test_the_plot_has_a_bar_for_each_figure_with_a_bound_and_says_which_miss_it() -> None:
    plot = ElementTree.fromstring(performance_plot([RESULT]))
    bars = [bar.get("class") for bar in plot.iter(f"{SVG}rect")]
    assert bars == ["bar pass", "bar fail"]
    assert "bare pipeline: wait <p99>, ms" in [text.text for text in plot.iter(f"{SVG}text")]
