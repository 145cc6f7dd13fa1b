"""The compiled core, one extension module: its table of contents.

Its parts are in `refstore/engines/native`: functions in the `.pxd`, which use no Python object up
to `fork` and hold the GIL from `stats` on; classes, which Cython lets stand nowhere else, in the
`.pxi` that are included here. What each is for, and in which order they use each other, is in
docs/internals.md.

Process-private fields of a View are guarded by the GIL. It is released while copying, while
waiting, and while memory is committed.
"""

cimport numpy as cnp

from refstore.engines.native.debug cimport IS_DEBUG
from refstore.engines.native.layout cimport check_layout, OBJECTS_LIMIT as MAX_OBJECTS

cnp.import_array()
check_layout()

BACKEND = "native"
DEBUG = bool(IS_DEBUG)
OBJECTS_LIMIT = MAX_OBJECTS

include "engines/native/refs.pxi"
include "engines/native/reports.pxi"
include "engines/native/mapped.pxi"
include "engines/native/attachment.pxi"
include "engines/native/fork_hooks.pxi"
include "engines/native/pickles.pxi"
include "engines/native/buffers.pxi"
include "engines/native/tensors.pxi"
include "engines/native/objects.pxi"
include "engines/native/writers.pxi"
include "engines/native/docs.pxi"
include "engines/native/looking.pxi"
include "engines/native/engine.pxi"
include "engines/native/watch.pxi"
include "engines/native/waiting_calls.pxi"
include "engines/native/making_calls.pxi"
include "engines/native/listing_calls.pxi"
include "engines/native/batches.pxi"
include "engines/native/batch_calls.pxi"
include "engines/native/exporter.pxi"
include "engines/native/testing.pxi"
