"""The compiled core: one mapped file, many processes. The table of contents of its one extension module.

What uses no Python object, and what only hands them on, is in the `.pxd` of `refstore/engines/native`, lowest first:

    debug          failpoints (nothing in a release)
    atomics        loads, stores, CAS: one name per order
    layout         the file: constants, structs, offsets
    system         byte locks, committed memory, mappings
    view           one process's view of the file
    bitmap         bitmaps of hints
    memory         memory is committed before it is touched
    lock           the locks in the file
    slots          an object's states: claim, seal, pin, condemn, reap
    bins           free runs of pages
    rebuild        the map of pages, made anew
    pages          whole pages, under the space lock
    runs           bare slots; runs dissolved
    blocks         a block for an object
    names          from a name to a slot
    process_table  a process's row
    recovery       what the dead held
    trim           memory back to the system
    mapping        making and mapping the file
    fork           what fork does to an attachment

and, with the GIL:

    stats          counts
    check          whether all adds up
    holders        who holds what
    points         where Python may run amid an operation
    errors         exceptions
    contention     who is in the way
    arrays         blocks as numpy arrays
    keys           names as the keys of calls
    opening        opening a store
    put            from an object to a sealed slot

The classes, which Cython lets stand nowhere else, are in the `.pxi` that are included here.

All that is private to a process in a Store struct is guarded by the GIL, which is given up only to copy, to wait, and
to have memory committed.
"""

cimport numpy as cnp

from refstore.engines.native.debug cimport IS_DEBUG
from refstore.engines.native.layout cimport check_layout, OBJECTS_LIMIT as MAX_OBJECTS

cnp.import_array()
check_layout()

BACKEND = "native"
DEBUG = bool(IS_DEBUG)
OBJECTS_LIMIT = MAX_OBJECTS

include "engines/native/fork_hooks.pxi"
include "engines/native/attachment.pxi"
include "engines/native/refs.pxi"
include "engines/native/buffers.pxi"
include "engines/native/writers.pxi"
include "engines/native/docs.pxi"
include "engines/native/objects.pxi"
include "engines/native/engine.pxi"
include "engines/native/exporter.pxi"
include "engines/native/testing.pxi"
