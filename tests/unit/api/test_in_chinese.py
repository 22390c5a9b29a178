"""Sentences of the account's pages in Chinese: each is of a sentence that is said, and no end of a session goes without."""

from __future__ import annotations

import pytest

from api.in_chinese import _SAYS, bilingual
from runtime.sql.sessions import Ended, says_why
from tests.source_tree import ROOT

SOURCES = [
    path.read_text(encoding="utf-8") for folder in ("api", "runtime") for path in (ROOT / folder).rglob("*.py")
    if path.name != "in_chinese.py"
]  # fmt: skip


@pytest.mark.parametrize("begins", [begins for begins, _ in _SAYS])
def test_each_is_of_a_sentence_that_somebody_says(begins: str) -> None:
    assert any(f'"{begins}' in source for source in SOURCES)


@pytest.mark.parametrize("why", Ended)
def test_why_a_session_ended_is_said_in_chinese_first(why: Ended) -> None:
    sentence = says_why(f"session-{why}")
    assert bilingual(sentence).endswith(sentence)
    assert not bilingual(sentence).isascii()


def test_a_sentence_of_which_nothing_is_known_stays_as_it_is() -> None:
    assert bilingual("something else") == "something else"
    assert bilingual("") == ""
