"""Age bands. Ranges of vital signs are stated by band; the bands are those of AHA PALS 2020, table of vital signs."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray


class AgeBand(IntEnum):
    """Bands by age in years, each from its lower edge up to the next one's."""

    NEONATE = 0  # up to 28 days
    INFANT = 1  # up to 1 year
    TODDLER = 2  # 1 to 2 years
    PRESCHOOL = 3  # 3 to 5 years
    SCHOOL = 4  # 6 to 11 years
    ADOLESCENT = 5  # 12 to 15 years
    ADULT = 6  # 16 years and over; also where the age is unknown


LOWER_EDGES_YEARS: Final = np.array([0.0, 28 / 365.25, 1.0, 3.0, 6.0, 12.0, 16.0])


def age_band(age_years: ArrayLike) -> NDArray[np.uint8]:
    """The band of each age in years, elementwise; an unknown age (NaN) or a negative one counts as adult."""
    years = np.asarray(age_years, dtype=np.float64)
    known = np.nan_to_num(years, nan=np.inf)
    band = np.searchsorted(LOWER_EDGES_YEARS, np.where(known < 0, np.inf, known), side="right") - 1
    return band.astype(np.uint8)
