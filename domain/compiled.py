"""Loops over the columns of a batch, compiled by Numba: one reading after the other, as the rules are written.

What a rule says of one reading after another is a loop, and compiled it takes a tenth of what a chain of array operations
does. Such a loop gets arrays and numbers and changes arrays in place; it decides nothing that array operations say as
well, and it checks no bounds: whoever calls it answers for its indices. Why:
docs/decisions/0017-sequential-rules-are-compiled-loops.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast, get_type_hints

import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

Loop = TypeVar("Loop", bound=Callable[..., Any])
_NUMBERS: Final = (int, float, np.generic, np.ndarray)


def _array(dtype: type[np.generic], dimensions: int = 1, *, is_out: bool = False) -> types.Array:
    return types.Array(numba.from_dtype(np.dtype(dtype)), dimensions, "C", readonly=not is_out)


# contiguous arrays that a loop only reads, which may be ones that nobody may write
Bools: TypeAlias = Annotated[NDArray[np.bool_], _array(np.bool_)]
Int16s: TypeAlias = Annotated[NDArray[np.int16], _array(np.int16)]
Int32s: TypeAlias = Annotated[NDArray[np.int32], _array(np.int32)]
Int64s: TypeAlias = Annotated[NDArray[np.int64], _array(np.int64)]
UInt8s: TypeAlias = Annotated[NDArray[np.uint8], _array(np.uint8)]
UInt16s: TypeAlias = Annotated[NDArray[np.uint16], _array(np.uint16)]
UInt32s: TypeAlias = Annotated[NDArray[np.uint32], _array(np.uint32)]
UInt64s: TypeAlias = Annotated[NDArray[np.uint64], _array(np.uint64)]
Floats: TypeAlias = Annotated[NDArray[np.float64], _array(np.float64)]
Bools2D: TypeAlias = Annotated[NDArray[np.bool_], _array(np.bool_, 2)]
Int32s2D: TypeAlias = Annotated[NDArray[np.int32], _array(np.int32, 2)]
UInt8s2D: TypeAlias = Annotated[NDArray[np.uint8], _array(np.uint8, 2)]
Floats2D: TypeAlias = Annotated[NDArray[np.float64], _array(np.float64, 2)]
Floats3D: TypeAlias = Annotated[NDArray[np.float64], _array(np.float64, 3)]
# … and such as it changes in place
OutBools: TypeAlias = Annotated[NDArray[np.bool_], _array(np.bool_, is_out=True)]
OutInt8s: TypeAlias = Annotated[NDArray[np.int8], _array(np.int8, is_out=True)]
OutInt32s: TypeAlias = Annotated[NDArray[np.int32], _array(np.int32, is_out=True)]
OutInt64s: TypeAlias = Annotated[NDArray[np.int64], _array(np.int64, is_out=True)]
OutUInt16s: TypeAlias = Annotated[NDArray[np.uint16], _array(np.uint16, is_out=True)]
OutUInt32s: TypeAlias = Annotated[NDArray[np.uint32], _array(np.uint32, is_out=True)]
OutUInt64s: TypeAlias = Annotated[NDArray[np.uint64], _array(np.uint64, is_out=True)]
OutFloats: TypeAlias = Annotated[NDArray[np.float64], _array(np.float64, is_out=True)]
OutInt64s2D: TypeAlias = Annotated[NDArray[np.int64], _array(np.int64, 2, is_out=True)]
OutFloats2D: TypeAlias = Annotated[NDArray[np.float64], _array(np.float64, 2, is_out=True)]


def compiled(loop: Loop) -> Loop:
    """Compile a loop for the types it is annotated with (those above, `int`, `float`, `bool`), when its module is imported.

    So no turn ever waits for a compiler. Machine code is kept beside the module and used by every later process; it is
    made anew when the module changes, and only then. That is why a loop may use private constants of its own module
    (`_NAME`), while all others are to be passed as arguments. Python's lock is released while it runs. A call with other
    types raises TypeError.
    """
    given = {name: loop.__globals__.get(name) for name in loop.__code__.co_names}
    foreign = [name for name, value in given.items() if isinstance(value, _NUMBERS) and not name.startswith("_")]
    if foreign:
        raise TypeError(f"{loop.__qualname__} would keep old values of {foreign} when they change: pass them as arguments")
    hints = get_type_hints(loop, include_extras=True)
    arguments = tuple(_numba_type(hint) for name, hint in hints.items() if name != "return")
    return cast(Loop, numba.njit(arguments, nogil=True, cache=True, error_model="numpy")(loop))


def _numba_type(hint: Any) -> types.Type:
    scalars = {int: types.int64, float: types.float64, bool: types.boolean}
    return scalars[hint] if hint in scalars else hint.__metadata__[0]
