"""Links: what goes in comes out exactly once, whatever is cut, delayed or lost; a cut keeps the order."""

from __future__ import annotations

import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.quality import Mark, has_mark
from domain.readings import ReadingBatch
from sim.emission import Emission
from sim.network import Network
from sim.rng import Streams

GATEWAYS = 2


class Line:
    """A network with a stop-watch: what was sent when, and what came out when."""

    def __init__(self, seed=1):
        self.env = simpy.Environment()
        self.network = Network(self.env, GATEWAYS, self._take, Streams(seed).stream("network"))
        self.sent: dict[int, Emission] = {}
        self.came: list[Emission] = []

    def _take(self, emission):
        assert not self.network.links[emission.gateway].is_cut, "delivered over a link that is cut"
        assert emission.due_s == self.env.now
        self.came.append(emission)

    def send(self, gateway):
        number = len(self.sent) + 1
        readings = ReadingBatch.of(handle=9, metric=1, time_us=round(self.env.now * 1e6), value=number, sequence=number)
        self.sent[number] = Emission(self.env.now, gateway, readings)
        self.network.send(self.sent[number])

    def wait(self, seconds):
        if seconds:
            self.env.run(until=self.env.now + seconds)

    def end(self):
        """All links work again and everybody waits until nothing is under way."""
        for gateway, link in enumerate(self.network.links):
            link.loss = link.delay_s = 0.0
            self.network.heal(gateway)
        self.env.run()

    def numbers(self, gateway=None):
        return [number_of(e) for e in self.came if gateway in (None, e.gateway)]


def number_of(emission):
    return int(emission.readings.sequence[0])


gateways = st.integers(0, GATEWAYS - 1)
gaps = st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0, 7.0])
calm_steps = st.tuples(gaps, st.sampled_from(["send", "send", "send", "cut", "heal"]), gateways, st.just(0.0))
rough_steps = st.tuples(gaps, st.sampled_from(["loss", "delay"]), gateways, st.sampled_from([0.0, 0.3, 0.9]))


def play(steps, seed=1):
    line = Line(seed)
    for gap_s, act, gateway, amount in steps:
        line.wait(gap_s)
        match act:
            case "send":
                line.send(gateway)
            case "cut":
                line.network.cut(gateway)
            case "heal":
                line.network.heal(gateway)
            case "loss":
                line.network.links[gateway].loss = amount
            case "delay":
                line.network.links[gateway].delay_s = amount * 5
    line.end()
    return line


@settings(max_examples=150)
@given(st.lists(st.one_of(calm_steps, rough_steps), max_size=60), st.integers(0, 9))
def test_what_goes_in_comes_out_exactly_once_whatever_happens_to_the_links(steps, seed):
    line = play(steps, seed)
    assert sorted(line.numbers()) == sorted(line.sent)
    assert line.network.held() == 0
    for came in line.came:
        sent = line.sent[number_of(came)]
        assert came.gateway == sent.gateway
        assert came.due_s >= sent.due_s
        assert not came.retransmission
        for column in ("handle", "metric", "time_us", "value", "source", "sequence"):
            assert getattr(came.readings, column).tolist() == getattr(sent.readings, column).tolist()


@settings(max_examples=150)
@given(st.lists(calm_steps, max_size=60))
def test_cuts_alone_never_change_the_order_of_a_link(steps):
    line = play(steps)
    for gateway in range(GATEWAYS):
        assert line.numbers(gateway) == [number for number, e in line.sent.items() if e.gateway == gateway]


def test_only_what_waited_long_is_marked_as_backfill():
    line = Line()
    line.network.cut(0)
    for _ in range(10):
        line.send(0)
        line.wait(1)
    line.network.heal(0)
    line.env.run()
    marked = [bool(has_mark(e.readings.quality, Mark.BACKFILL)[0]) for e in line.came]
    assert marked == [e.due_s - line.sent[number_of(e)].due_s > 5 for e in line.came]
    assert set(marked) == {True, False}


def test_a_store_is_emptied_at_a_bounded_rate():
    line = Line()
    line.network.cut(0)
    for _ in range(100):
        line.send(0)
    line.wait(30)
    line.network.heal(0)
    line.env.run()
    came = [e.due_s for e in line.came]
    assert came[0] == 30
    assert came[-1] - came[0] > 4.9


def test_what_is_under_way_when_the_line_goes_arrives_after_it_is_back_and_before_what_is_younger():
    line = Line()
    line.network.links[0].delay_s = 3.0
    line.send(0)  # under way
    line.network.cut(0)
    line.wait(0.001)
    line.send(0)
    line.wait(60)
    assert line.came == []
    line.network.heal(0)
    line.env.run()
    assert line.numbers() == [1, 2]


def test_a_duplicate_says_that_it_is_one_and_comes_later():
    line = Line()
    line.network.links[0].duplicate = 1.0
    line.send(0)
    line.env.run()
    first, second = line.came
    assert (first.retransmission, second.retransmission) == (False, True)
    assert second.due_s > first.due_s
    assert number_of(first) == number_of(second)


def test_chance_on_one_link_does_not_shift_that_of_another():
    calm, rough = Line(), Line()
    rough.network.links[0].loss = 0.5
    for line in (calm, rough):
        line.network.links[1].delay_s = 3.0
        for _ in range(20):
            line.send(0)
            line.send(1)
            line.wait(1)
        line.env.run()
    assert [e.due_s for e in calm.came if e.gateway == 1] == [e.due_s for e in rough.came if e.gateway == 1]
