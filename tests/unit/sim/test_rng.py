"""Random streams by name: the same name starts at the same place, whatever else was asked for before."""

from __future__ import annotations

import pytest

from domain.errors import InvalidInput
from sim.rng import Streams


def draws(streams, *name):
    return streams.stream(*name).random(8).tolist()


def test_a_stream_depends_on_seed_and_name_and_not_on_who_asked_first():
    first, second = Streams(4), Streams(4)
    draws(second, "something", "else")
    assert draws(first, "network", 7) == draws(second, "network", 7)


def test_other_names_and_other_seeds_draw_otherwise():
    streams = Streams(4)
    seen = [draws(streams, "a"), draws(streams, "b"), draws(streams, "a", 1), draws(Streams(5), "a")]
    assert len({tuple(row) for row in seen}) == len(seen)


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidInput, match="-1"):
        Streams(-1)
