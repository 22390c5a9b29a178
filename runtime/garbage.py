"""How often Python looks for reference cycles in a process that lives long.

By default it looks each time 700 objects more were made than freed, and now and then through everything there is. A door
with thousands of messages on their way makes as many in a few milliseconds, and spent two fifths of its time looking,
for nothing: what is on its way is freed by counting references, and modules, tables and settings are never garbage.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 500_000  # more than are on their way at once, which come and go together
_YOUNG_LOOKS: Final = 10
_OLD_LOOKS: Final = 10
_LOADED_OBJECTS: Final = 20_000  # some thirty looks, where there would be hundreds
_LOADED_LOOKS: Final = 20


def look_seldom_while_loading() -> None:
    """To be called before most modules are loaded: a sixth of the time that takes went into looking at them."""
    gc.set_threshold(_LOADED_OBJECTS, _LOADED_LOOKS, _LOADED_LOOKS)


def look_seldom() -> None:
    """Never look again at what is here now, and seldom at what comes. To be called when a process is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_LOOKS, _OLD_LOOKS)
