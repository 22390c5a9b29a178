"""Faults are drawn from a seed: the same again for the same seed, and every kind sooner or later."""

from __future__ import annotations

from tests.faults.orders import ORDERS
from tests.faults.schedule import FIRST_S, LAST_S, PROCESSES, draw
from tests.faults.stand import LINKS
from tests.faults.tcp_proxy import CONDITIONS


def test_a_seed_draws_the_same_plan_again():
    assert draw(7, 4) == draw(7, 4) != draw(8, 4)


def test_every_kind_of_fault_is_drawn_sooner_or_later():
    kinds = {fault.kind for seed in range(2_000) for fault in draw(seed, 4).faults}
    of_processes = {f"{way} {role}" for way in ("kill", "stop") for role in PROCESSES}
    of_links = {f"{condition} {link}" for condition in CONDITIONS for link in LINKS}
    assert kinds == of_processes | of_links | {f"order {name}" for name in ORDERS}


def test_faults_come_in_order_while_readings_are_sent():
    for seed in range(200):
        times = [fault.at_s for fault in draw(seed, 4).faults]
        assert times == sorted(times)
        assert all(FIRST_S <= at_s <= LAST_S for at_s in times)


def test_one_kind_alone_can_be_asked_for():
    (fault,) = draw(3, 4, "kill host").faults
    assert fault.kind == "kill host"
    assert fault.for_s == 0
