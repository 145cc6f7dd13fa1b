"""Where in memory a view lies, whatever kind of object it is."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["address_of"]


def address_of(view: Any) -> tuple[int, int] | None:
    """Address and bytes from the lowest to the highest of a view; None if it has no bytes.

    Errors: TypeError for what has no buffer.
    """
    try:
        array = view if isinstance(view, np.ndarray) else np.asarray(memoryview(view))
    except TypeError:
        if not hasattr(view, "__array_interface__") and not hasattr(view, "data_ptr"):
            raise TypeError(
                f"{type(view).__name__} has no buffer: give an array, a tensor, a memoryview or a "
                "PinnedBuffer"
            ) from None
        array = view.detach().numpy() if hasattr(view, "data_ptr") else np.asarray(view)
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
    return (int(low), int(high - low)) if array.nbytes else None
