"""Two runs side by side: each figure, and by which factor the second differs from the first."""

from __future__ import annotations

import msgspec

from scenarios.report.document import Report
from scenarios.verdicts import METRICS


class ComparedFigure(msgspec.Struct, frozen=True):
    """`ratio` is second / first; None where one is missing or the first is zero."""

    metric: str
    title: str
    unit: str
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        return self.second / self.first if self.first and self.second is not None else None


class Comparison(msgspec.Struct, frozen=True):
    """`differences`: what was not alike in how the two were made, so that figures may not compare."""

    figures: list[ComparedFigure]
    differences: list[str]


def compare(first: Report, second: Report) -> Comparison:
    """All figures that at least one of the two runs measured."""
    figures = [
        ComparedFigure(metric, info.title, info.unit, first.figures.get(metric), second.figures.get(metric))
        for metric, info in METRICS.items()
        if first.figures.get(metric) is not None or second.figures.get(metric) is not None
    ]
    return Comparison(figures, _differences(first, second))


def _differences(first: Report, second: Report) -> list[str]:
    pairs = {
        "scenario": (first.story.name, second.story.name),
        "commit": (first.provenance.commit, second.provenance.commit),
        "machine": (first.provenance.machine, second.provenance.machine),
        "valid": (first.valid, second.valid),
    }
    ours, theirs = _flat(first.story.settings), _flat(second.story.settings)
    pairs |= {key: (ours.get(key), theirs.get(key)) for key in sorted(ours.keys() | theirs.keys())}
    return [f"{name}: {a} / {b}" for name, (a, b) in pairs.items() if a != b and name not in ("title", "story")]


def _flat(settings: object, path: str = "") -> dict[str, object]:
    """Settings by dotted key, as `--set` names them."""
    if isinstance(settings, dict):
        items = settings.items()
    elif isinstance(settings, list):
        items = dict(enumerate(settings)).items()
    else:
        return {path: settings}
    flat: dict[str, object] = {}
    for key, value in items:
        flat |= _flat(value, f"{path}.{key}".lstrip("."))
    return flat
