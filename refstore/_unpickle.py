"""Functions named in pickles: of objects in stores, and of refs and stores sent to processes.

Another version of refstore may read them, so no name goes from here, and none changes its meaning.
Where a function is defined may change. Nobody but pickle asks this for anything.
"""

from __future__ import annotations

from refstore._refs import restore_ref
from refstore._store import reattach
from refstore.payload.arrow import rebuild_polars
from refstore.payload.ndarrays import (
    ELEMENTS,
    rebuild_array,
    rebuild_masked,
    rebuild_to_be_set,
    same_class,
    set_state,
)
from refstore.payload.serializers import rebuild_registered
from refstore.payload.torch import (
    rebuild_tensor,
    rebuild_typed_storage,
    rebuild_untyped_storage,
    rebuild_whole,
    same_storage,
)

__all__ = [
    "ELEMENTS",
    "reattach",
    "rebuild_array",
    "rebuild_masked",
    "rebuild_polars",
    "rebuild_registered",
    "rebuild_tensor",
    "rebuild_to_be_set",
    "rebuild_typed_storage",
    "rebuild_untyped_storage",
    "rebuild_whole",
    "restore_ref",
    "same_class",
    "same_storage",
    "set_state",
]
