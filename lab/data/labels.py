"""Labels as an array in which a missing one is still missing."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def as_labels(values: Iterable) -> np.ndarray:
    """Labels [N]; texts with a missing one among them stay objects, since as texts it would be the label 'nan'."""
    given = list(values)
    found = np.array(given)
    as_objects = np.array(given, dtype=object) if found.dtype.kind == "U" else found
    return as_objects if pd.isna(as_objects).any() else found
