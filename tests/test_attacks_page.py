"""The page of attacks: each flood, what honest clients saw, and each port that was scanned."""

from __future__ import annotations

from datetime import date

from tests.attacks.attack_run import Outcome
from tests.attacks.honest import Seen
from tests.attacks.report import Played, page

FLOOD = Outcome("slow reads", Seen([0.25] * 40, ["503"], 1.5), {"refused": 1200, "cut": 3}, "api", 7 << 20)


def test_every_flood_and_every_port_is_on_the_page() -> None:
    run = Played("standard", 20.0, [FLOOD], {"api:40001": [], "doors:40002": ["RC4: HIGH, offered"]}, 2000, 1)
    text = page([run], date(2026, 11, 26), 1.0)
    assert "2026-11-26" in text
    assert "| slow reads | 0.250 | 40 | 1 | 1.5 | api, 7 MiB | cut 3, refused 1,200 |" in text
    assert "2,000 readings acknowledged meanwhile, 1 lost." in text
    assert "| api | none |" in text
    assert "| doors | RC4: HIGH, offered |" in text
