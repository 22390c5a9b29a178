"""Values made of a request's parameters, where the request is handled.

FastAPI makes an instance of a class that stands as a dependency in a thread. A question to the readings has three of
them, and each way to a thread and back waits for its turn behind everything that the event loop has to do.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from fastapi import Depends


def given(cls: type) -> Any:
    """A dependency: one of this class, made of the parameters that its signature names."""
    return Depends(_maker(cls))


@cache
def _maker(cls: type) -> Any:
    async def made(**parameters: Any) -> Any:
        return cls(**parameters)

    made.__signature__ = inspect.signature(cls, eval_str=True)  # type: ignore[attr-defined]  # where FastAPI looks
    made.__name__ = made.__qualname__ = f"given_{cls.__name__}"
    return made
