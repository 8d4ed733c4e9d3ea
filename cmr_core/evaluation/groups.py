"""Groups of items and users by how much training data there is about them: cold first.

An item counts its training interactions in the target market, a user those of the user. The bounds are fixed, so that
a group means the same in every market and run. Below 5 interactions XMarket's own 5-core filter would have dropped an
item; 20 is where the long tail of its markets ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmr_core.interfaces import IntArray

ITEM_BOUNDS = (0, 1, 5, 20)
USER_BOUNDS = (0, 1, 5, 10, 20)


def group_names(kind: str, bounds: Sequence[int]) -> list[str]:
    """Names such as `item:0`, `item:1-4`, `item:20+`, in the order of `bounds`."""
    ends = [*(b - 1 for b in bounds[1:]), None]
    spans = [
        f"{lo}+" if hi is None else str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in zip(bounds, ends, strict=True)
    ]
    return [f"{kind}:{span}" for span in spans]


def group_of(counts: IntArray, bounds: Sequence[int]) -> IntArray:
    """Position of each count's group among `bounds`, which start at 0 and ascend: same shape, int64."""
    return np.searchsorted(np.asarray(bounds), counts, side="right") - 1
