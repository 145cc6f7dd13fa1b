# What create() hands out: room that is written in place, and then sealed.

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport load_relaxed
from refstore.engines.native.copying cimport copy
from refstore.engines.native.error_codes cimport ERR_DAMAGED, ERR_NO_MEMORY
from refstore.engines.native.layout cimport PAGE, SMALL_LIMIT
from refstore.engines.native.view cimport damage, pins_are_committed, View
from refstore.engines.native.memory cimport ensure_pins_committed
from refstore.engines.native.metas cimport meta_nbytes, meta_room, set_nbytes
from refstore.engines.native.slots cimport pin_own, word_generation
from refstore.engines.native.blocks cimport cut_extent
from refstore.engines.native.names cimport Name
from refstore.engines.native.claims cimport give_up, give_up_to_views
from refstore.engines.native.fork cimport keep_pin, OpenWriter
from refstore.engines.native.points cimport look_for_signals, python_ran
from refstore.engines.native.errors cimport full, put_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.put cimport (
    Draft, move_object, PIECE, prepare, publish_object, RELEASES_GIL,
)
from refstore.engines.native.arrays cimport NPY_ARRAY_WRITEABLE, PyArray_CLEARFLAGS

import operator
import weakref
from refstore import _buffers, _messages
from refstore._errors import ObjectExistsError

cdef int get_octets(object data, Py_buffer *view) except -1:
    # The plain bytes of what has them in one piece; numpy says by a ValueError that it has not.
    if isinstance(data, np.ndarray) and data.dtype.hasobject:
        raise _messages.not_contiguous()
    try:
        PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
    except BufferError as error:
        raise _messages.not_contiguous() from error
    except ValueError as error:
        if not isinstance(data, np.ndarray):
            raise               # it is closed, or released
        raise _messages.not_contiguous() from error
    return 0


@cython.final
@cython.no_gc
cdef class Writer(Block):
    cdef bint is_sealed
    cdef bint replaces
    cdef bint may_shrink
    cdef bint is_short          # shorter than it was made
    cdef bint claims            # the name is ours till the end
    cdef object name
    cdef Name parsed            # of `name`, which keeps its bytes
    cdef Attachment home        # stays when the block is given back
    cdef OpenWriter open        # for the fork hooks, while it is neither sealed nor aborted
    cdef object array_ref       # weak: the array holds us
    cdef list older_arrays      # the same, of before truncations

    def __init__(self):
        raise _messages.no_constructor("Writer")

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, see PinnedBuffer
        pass

    def __dealloc__(self):
        self.is_kept = False        # nobody did
        self.abort_object()
        self.let_go()

    cdef str noun(self):
        return "Writer"

    cdef bint is_ours(self) noexcept:
        return self.att is not None and self.att.view.alive[0] != 0 and not self.open.is_inherited

    cdef void abort_object(self) noexcept:
        if not self.is_closed and self.is_ours():
            see_forks(self.att)
            if not self.is_seen():
                give_up(&self.att.view, self.slot)
            elif self.pin_views():          # nothing may be put where they point
                give_up_to_views(&self.att.view, self.slot)
            else:  # not even memory for a pin: the block stays ours until somebody recovers our row
                self.att.view.dirty = True
        self.close_views()

    cdef bint is_seen(self) noexcept:
        # whether anybody may look at the block, and write to it
        return self.exports != 0 or self.is_kept or self.open.is_shared

    cdef void enlist(self) noexcept:
        global first_writer
        self.open.view = &self.att.view
        self.open.slot = self.slot
        self.open.pinned = &self.pinned
        self.open.next = first_writer
        first_writer = &self.open

    cdef void delist(self) noexcept:
        global first_writer
        cdef OpenWriter **at = &first_writer
        while at[0] != NULL and at[0] != &self.open:
            at = &at[0].next
        if at[0] != NULL:
            at[0] = self.open.next

    cdef void close_views(self) noexcept:
        self.is_closed = True
        self.delist()
        self.release_unless_used()

    cdef bint pin_views(self) noexcept:
        if not pins_are_committed(&self.att.view, self.slot) \
                and ensure_pins_committed(&self.att.view, self.slot) != 0:
            return False
        pin_own(&self.att.view, self.slot)
        self.pinned = True
        if self.open.is_kept:
            keep_pin(&self.att.view, self.slot)
        return True

    cdef int require_ours(self) except -1:
        if self.is_closed:
            raise self.refusal()
        if not self.is_ours():
            raise _messages.parents_writer()
        return 0

    def __enter__(self):
        self.require_ours()
        return self

    def __exit__(self, kind, value, trace):
        if self.is_closed:
            return
        if kind is not None:
            self.abort()
            return
        try:
            self.seal()
        except BaseException:
            self.abort()            # if it is still to be ended
            raise

    def seal(self):
        self.require_ours()
        cdef Attachment att = self.att
        cdef Draft draft
        prepare(&att.view, &draft)
        look_for_signals(&att.view, draft.life, "before the seal")
        self.require_ours()          # still
        see_forks(att)
        if self.shrink(True) == ERR_DAMAGED:
            raise put_error(&att.view, ERR_DAMAGED, <uint64_t>self.nbytes, self.name)
        draft.slot = self.slot
        draft.claim = self.slot + 1 if self.claims else 0
        if self.is_seen() and not self.pinned and not self.pin_views():
            raise full(&self.att.view, <uint64_t>self.nbytes, ERR_NO_MEMORY)
        ref = self.own_ref()
        self.is_closed = True
        self.is_writable = False        # nor may the flags of its arrays be set again
        self.exports += 1               # stays whole, whatever others let go of while this waits
        try:
            publish_object(&self.att.view, &draft, self.name, &self.parsed, self.replaces)
            self.is_sealed = True
            self.home.delete_unless_open()
        except ObjectExistsError as error:
            if error.pid is not None:           # it is claimed
                raise
            raise _messages.taken_meanwhile(att.path, self.name) from None
        finally:
            self.exports -= 1
            self.close_views()
        for array_ref in [self.array_ref, *self.older_arrays]:
            array = array_ref() if array_ref is not None else None
            if array is not None:
                PyArray_CLEARFLAGS(<cnp.ndarray>array, NPY_ARRAY_WRITEABLE)
        return ref

    def write_at(self, offset, data):
        self.require_ours()
        cdef:
            Attachment att = self.att
            uint64_t life = att.view.life
            Py_ssize_t start, piece, at, left
            Py_buffer view
            object asked = operator.index(offset)
            bint moves_up
        start = asked if 0 <= asked <= self.nbytes else -1
        get_octets(data, &view)
        try:
            python_ran(&att.view, life, "asking for bytes to write")
            self.require_ours()          # still
            if start < 0 or start > self.nbytes - view.len:
                raise _messages.no_place_to_write(asked, view.len, self.nbytes)
            self.exports += 1           # whoever ends the Writer meanwhile leaves us the block
            try:
                # from the end if it may be our own memory, moved up: no piece may overwrite what
                # another has yet to read
                moves_up = self.data + start > <char*>view.buf
                left = view.len
                while left > 0:
                    piece = min(left, <Py_ssize_t>PIECE)
                    at = left - piece if moves_up else view.len - left
                    self.write_piece(start + at, <char*>view.buf + at, piece)
                    left -= piece
                    if view.len >= RELEASES_GIL:
                        look_for_signals(&att.view, life, "writing to a block")
                        self.require_ours()
            finally:
                self.give_back_export()
        finally:
            PyBuffer_Release(&view)

    cdef void write_piece(self, Py_ssize_t start, const char *octets, Py_ssize_t n) noexcept:
        cdef char *target = self.data + start
        if n < RELEASES_GIL:
            copy(target, octets, n)
        else:
            with nogil:
                copy(target, octets, n)

    def truncate(self, nbytes):
        self.require_ours()
        cdef object size = operator.index(nbytes)
        cdef uint64_t since = 0
        cdef int got
        self.require_ours()              # still
        if not self.may_shrink:
            raise _messages.no_truncation()
        if not 0 <= size <= self.nbytes:
            raise _messages.not_shorter(size, self.nbytes)
        see_forks(self.att)
        self.nbytes = size
        self.is_short = True
        self.older_arrays.append(self.array_ref)
        self.array_ref = None
        got = self.shrink(False)
        # what does not come back now does so at the seal, or with the object
        while got != 0 and may_retry(&self.att.view, &got, &since):
            self.require_ours()
            got = self.shrink(False)
        if got == ERR_DAMAGED:
            raise put_error(&self.att.view, got, <uint64_t>self.nbytes, self.name)

    cdef int shrink(self, bint ends) noexcept:
        # The slot becomes as short as we are, with less room, unless somebody sees what would be
        # given back. 0, ERR_DAMAGED or an error of the space lock. `ends`: whoever still sees it is
        # to blame.
        cdef View *v = &self.att.view
        cdef uint64_t i = self.slot, needed
        if not self.is_short or self.is_seen() and not ends:
            return 0
        if not set_nbytes(v, i, <uint64_t>self.nbytes):
            return damage(v, b"slot %d has an invalid block", i)
        if self.is_seen():
            return 0
        needed = <uint64_t>self.nbytes + meta_room(meta_nbytes(v, i))
        # a claim is the slot's
        if not self.claims and needed <= SMALL_LIMIT and move_object(v, &i, needed):
            self.slot = self.open.slot = i
            self.generation = word_generation(load_relaxed(&v.slots[i].word))   # relaxed: ours
            self.data = v.base + v.slots[i].offset
            return 0
        return cut_extent(v, i, max((needed + PAGE - 1) // PAGE, <uint64_t>1))

    def abort(self):
        if not self.is_closed:
            self.abort_object()
            self.home = None

    @property
    def array(self):
        cdef Block block = self
        array = self.array_ref() if self.array_ref is not None else None
        if array is None:
            if self.is_sealed:
                block = pinned(self.home, self.slot, self.generation)
            block.require_open()
            array = block.as_array()
            if self.is_closed:      # by another thread, meanwhile
                PyArray_CLEARFLAGS(<cnp.ndarray>array, NPY_ARRAY_WRITEABLE)
            self.array_ref = weakref.ref(array)
        return array

    @property
    def ref(self):
        if not self.is_sealed:
            raise _messages.not_sealed()
        return self.own_ref()

    @property
    def _ref(self):
        return self.own_ref()

    def __repr__(self):
        state = "sealed" if self.is_sealed else "closed" if self.is_closed else "open"
        return f"<Writer of {self.nbytes} bytes, {state}>"


_buffers.Writer.register(Writer)
