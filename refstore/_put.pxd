# From a Python object to a sealed slot: room first, then the one copy, then the seal. On any failure nothing is
# left behind.

cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBUF_WRITE, PyBuffer_IsContiguous, PyBuffer_Release, PyBuffer_ToContiguous,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcpy

from refstore._atomics cimport assign
from refstore._alloc cimport take_block
from refstore._convert cimport (
    dims_of, NPY_ARRAY_WRITEABLE, plain_number, PyArray_CopyInto, set_strides, set_text, Shape,
    view_of,
)
from refstore._debug cimport failpoint
from refstore._errors cimport full, put_error
from refstore._index cimport find, Found, name_hash, publish, seal
from refstore._layout cimport (
    COUNT_PUTS, ERR_BUSY, ERR_DAMAGED, ERR_DEAD, ERR_EXISTS, ERR_FULL, ERR_FULL_SLOTS, ERR_HELD,
    ERR_INDEX, ERR_NO_MEMORY, ERR_NOT_FOUND, ERR_RECOVERY, INLINE_DIMS, KIND_ARRAY, KIND_BYTES,
    KIND_OBJECT, Label, LABEL_TEXT, MAX_ROWS, NAME_LIMIT, Slot, word_row,
)
from refstore._rows cimport look_at_blocker, recover_dead, row_is_dead, sweep
from refstore._runs cimport held_elsewhere
from refstore._slots cimport abandon, free_slot, pins_condemned, reap_condemned, unpin
from refstore._store cimport commit_labels, count, label_at, Store
from refstore._wait cimport is_same_process, overcome

cdef enum:
    RELEASES_GIL = 65536        # bytes from which a copy lets other threads run
    ATTEMPTS = 8                # to find a slot that nobody has in hand

cdef struct Name:
    const char *utf8
    Py_ssize_t nbytes
    uint64_t hashed             # 0: no name


cdef inline int read_name(Store *s, object name, Name *parsed) except -1:
    if isinstance(name, str):
        try:
            parsed.utf8 = PyUnicode_AsUTF8AndSize(name, &parsed.nbytes)
        except UnicodeEncodeError:
            parsed.nbytes = 0
    if not isinstance(name, str) or not 0 < parsed.nbytes <= NAME_LIMIT:
        from refstore.names import encode_name
        encode_name(name)       # raises
    parsed.hashed = name_hash(s, <const uint8_t*>parsed.utf8, <uint64_t>parsed.nbytes)
    return 0


cdef inline int find_named(Store *s, Name *name, Found *found) noexcept nogil:
    return find(s, name.hashed, <const uint8_t*>name.utf8, <uint64_t>name.nbytes, found)


cdef inline int demand_free_name(Store *s, object text, Name *name) except -1:
    # Early, so that nothing is copied in vain; publish() looks again under the name's lock.
    cdef Found found
    cdef int got = find_named(s, name, &found)
    if got == 0:
        unpin(s, found.slot)
        raise put_error(s, ERR_EXISTS, 0, text)
    if got != ERR_NOT_FOUND:
        raise full(s, 0, got)
    return 0


cdef inline int find_room(Store *s, uint64_t nbytes, uint64_t *slot):
    # When there is none: what dead processes held, then what garbage of this one still pins.
    cdef int got, recovery = 0
    cdef int attempt = 0
    cdef uint64_t since = 0, stuck = 0, held = 0, before
    while True:
        got = take_block(s, nbytes, slot)
        if got == 0:
            return 0
        if overcome(s, &got, &since):
            continue
        if got == ERR_BUSY or got == ERR_RECOVERY or got == ERR_DAMAGED:
            return got
        if attempt == 0:
            recovery = recover_dead(s, True)
            if overcome(s, &recovery, &since):
                continue
            stuck = s.blocked_by
            sweep(s, MAX_ROWS)      # of no dead row: hints that went missing
        elif attempt == 1 and pins_condemned(s):
            import gc
            gc.collect()
        elif recovery == ERR_BUSY:
            s.blocked_by = stuck
            return ERR_BUSY         # room may come back from a recovery that stands still
        elif got == ERR_FULL_SLOTS and attempt < ATTEMPTS:
            # some may be in somebody's hand: for a moment, or as long as that process is stopped
            before = held
            held = held_elsewhere(s)
            if held == 0:
                return got
            if held == before:
                got = ERR_DEAD if row_is_dead(s, word_row(held)) else ERR_HELD
                if overcome(s, &got, &since):
                    continue
                return got
        else:
            return got
        attempt += 1


cdef inline uint64_t start(Store *s, uint64_t nbytes, uint64_t spill) except? 0xFFFFFFFF:
    # A slot of ours with room for the payload, and `spill` bytes of description behind it.
    cdef:
        uint64_t i = 0
        int got = ERR_FULL
        Slot *slot
    if nbytes <= s.header.capacity:
        got = find_room(s, nbytes + spill, &i)
    if got != 0:
        raise put_error(s, got, nbytes, None)
    slot = &s.slots[i]
    assign(slot.nbytes, nbytes)
    assign(slot.kind, KIND_BYTES)
    assign(slot.dtype, 0)
    assign(slot.ndim, 0)
    assign(slot.order, c'C')
    assign(slot.text_nbytes, 0)
    assign(slot.spill_nbytes, 0)
    assign(slot.name_hash, 0)
    assign(slot.replaces_slot, 0)
    return i


cdef inline int publish_named(Store *s, uint64_t i, Name *name, bint replace) except -128:
    cdef Label *label
    cdef uint64_t since = 0
    cdef int got = commit_labels(s, i)
    if got != 0:
        return got
    label = label_at(s, i)
    assign(label.name_nbytes, <uint8_t>name.nbytes)
    memcpy(label.name, name.utf8, <size_t>name.nbytes)
    failpoint()
    assign(s.slots[i].name_hash, name.hashed)
    got = publish(s, i, replace)
    while got != 0 and overcome(s, &got, &since):
        got = publish(s, i, replace)
    return got


cdef inline void give_up(Store *s, uint64_t i) noexcept nogil:
    # Views of it may live, also in a child that was forked while we waited: then it goes with the last.
    abandon(s, i)
    reap_condemned(s, i)


cdef inline int finish(Store *s, uint64_t i, object text, Name *name, bint replace) except -1:
    # Seals what we wrote. If this fails it is given up.
    cdef uint64_t nbytes = s.slots[i].nbytes
    cdef uint64_t row = s.row
    cdef int got
    failpoint()
    if name.hashed == 0:
        seal(s, i)
    else:
        s.blocked_by = 0
        try:
            got = publish_named(s, i, name, replace)
        except BaseException:
            if is_same_process(s, row):
                give_up(s, i)
            raise
        if got != 0:
            if got != ERR_INDEX:        # then it is condemned already
                give_up(s, i)
            raise put_error(s, got, nbytes, text)
        look_at_blocker(s)              # of what was replaced
    count(s, COUNT_PUTS, 1)
    return 0


cdef inline char *block_of(Store *s, uint64_t i) noexcept nogil:
    return s.base + s.slots[i].offset


cdef inline void copy_in(char *target, const char *source, size_t nbytes) noexcept:
    if nbytes < RELEASES_GIL:
        memcpy(target, source, nbytes)
    else:
        with nogil:
            memcpy(target, source, nbytes)


cdef inline uint64_t put_bytes(Store *s, object obj) except? 0xFFFFFFFF:
    cdef uint64_t i = start(s, <uint64_t>PyBytes_GET_SIZE(obj), 0)
    copy_in(block_of(s, i), PyBytes_AS_STRING(obj), <size_t>PyBytes_GET_SIZE(obj))
    return i


cdef inline uint64_t put_buffer(Store *s, object obj) except? 0xFFFFFFFF:
    cdef Py_buffer view
    cdef uint64_t i
    PyObject_GetBuffer(obj, &view, PyBUF_FULL_RO)
    try:
        i = start(s, <uint64_t>view.len, 0)
        if PyBuffer_IsContiguous(&view, c'C'):
            copy_in(block_of(s, i), <char*>view.buf, <size_t>view.len)
        elif PyBuffer_ToContiguous(block_of(s, i), &view, view.len, c'C') != 0:
            free_slot(s, i)
            raise BufferError("the buffer cannot be made contiguous")
    finally:
        PyBuffer_Release(&view)
    return i


cdef inline uint64_t start_array(Store *s, cnp.dtype dtype, Shape *shape, char order, tuple axes,
                                 uint64_t nbytes) except? 0xFFFFFFFF:
    # A slot for an array, with its description written. `axes`: None stands for C order.
    cdef:
        int number = plain_number(dtype)
        int axis
        uint64_t i
        Slot *slot
        bytes text = None
    if not number or shape.ndim > INLINE_DIMS or order == c'K':
        from refstore.arrays import describe
        text = describe(dtype, dims_of(shape), tuple(range(shape.ndim)) if axes is None else axes)
    i = start(s, nbytes, <uint64_t>len(text) if text is not None and len(text) > LABEL_TEXT else 0)
    slot = &s.slots[i]
    assign(slot.kind, KIND_ARRAY)
    assign(slot.order, <uint8_t>order)
    if text is None:
        assign(slot.dtype, <uint8_t>number)
        assign(slot.ndim, <uint8_t>shape.ndim)
        for axis in range(shape.ndim):
            assign(slot.shape[axis], <uint64_t>shape.dims[axis])
    else:
        if len(text) <= LABEL_TEXT and commit_labels(s, i) != 0:
            free_slot(s, i)
            raise full(s, nbytes, ERR_NO_MEMORY)
        set_text(s, slot, i, PyBytes_AS_STRING(text), len(text))
    return i


cdef inline uint64_t put_strided(Store *s, cnp.ndarray array, Shape *shape) except? 0xFFFFFFFF:
    # Not in C order: the axes keep the order in which they lie, without the gaps.
    from refstore.arrays import axes_in_memory
    cdef:
        tuple axes = axes_in_memory(array)
        char order = c'K'
        uint64_t i
        cnp.dtype dtype = array.dtype
    if axes == tuple(range(shape.ndim)):
        order = c'C'
    elif axes == tuple(range(shape.ndim))[::-1]:
        order = c'F'
    i = start_array(s, dtype, shape, order, axes, <uint64_t>cnp.PyArray_NBYTES(array))
    try:
        if cnp.PyArray_IS_F_CONTIGUOUS(array):
            copy_in(block_of(s, i), <char*>cnp.PyArray_DATA(array),
                    <size_t>cnp.PyArray_NBYTES(array))
        else:
            set_strides(shape, axes, dtype.itemsize)
            PyArray_CopyInto(
                view_of(dtype, shape, True, block_of(s, i), NPY_ARRAY_WRITEABLE, None), array)
    except BaseException:
        free_slot(s, i)
        raise
    return i


cdef inline uint64_t put_array(Store *s, cnp.ndarray array) except? 0xFFFFFFFF:
    cdef:
        Shape shape
        uint64_t i
        int axis
        uint64_t nbytes = <uint64_t>cnp.PyArray_NBYTES(array)
    shape.ndim = cnp.PyArray_NDIM(array)
    for axis in range(shape.ndim):
        shape.dims[axis] = cnp.PyArray_DIM(array, axis)
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        return put_strided(s, array, &shape)
    i = start_array(s, array.dtype, &shape, c'C', None, nbytes)
    copy_in(block_of(s, i), <char*>cnp.PyArray_DATA(array), nbytes)
    return i


cdef inline uint64_t put_pickled(Store *s, object obj) except? 0xFFFFFFFF:
    from refstore.payload import encode
    cdef uint64_t i
    frame = encode(obj)
    i = start(s, <uint64_t>frame.nbytes, 0)
    try:
        frame.write(PyMemoryView_FromMemory(block_of(s, i), frame.nbytes, PyBUF_WRITE))
    except BaseException:
        free_slot(s, i)
        raise
    assign(s.slots[i].kind, KIND_OBJECT)
    return i


cdef inline uint64_t put_any(Store *s, object obj) except? 0xFFFFFFFF:
    if type(obj) is bytes:
        return put_bytes(s, obj)
    if type(obj) is cnp.ndarray and not (<cnp.ndarray>obj).dtype.hasobject:
        return put_array(s, obj)
    if isinstance(obj, (bytearray, memoryview)):
        return put_buffer(s, obj)
    return put_pickled(s, obj)
