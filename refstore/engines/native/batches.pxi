# Many objects at once, from Python objects to filled slots: all are measured, then all get their
# room, then all are copied, without the GIL if that takes long. None of them is sealed before.

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_IsContiguous
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from libc.stdint cimport uint64_t, uint8_t

from refstore.engines.native.atomics cimport assign, prefetch
from refstore.engines.native.copying cimport copy
from refstore.engines.native.error_codes cimport (
    ERR_DAMAGED, ERR_FULL, ERR_FULL_SLOTS, ERR_TOO_LARGE,
)
from refstore.engines.native.layout cimport (
    INLINE_DIMS, KIND_ARRAY, KIND_BYTES, KIND_OBJECT, LABEL_TEXT, MAX_ROWS, PAGE,
)
from refstore.engines.native.system cimport now_ns
from refstore.engines.native.view cimport View
from refstore.engines.native.waiting cimport begin_nap, LIVENESS_NAP_MS, Nap
from refstore.engines.native.slots cimport free_slot
from refstore.engines.native.runs cimport merge_free_pages
from refstore.engines.native.blocks cimport block_for, forget_recent, take_spare
from refstore.engines.native.names cimport Name, prefetch_name, read_name
from refstore.engines.native.recovery cimport recover_dead, sweep
from refstore.engines.native.units cimport evict_all
from refstore.engines.native.lots cimport Lot, lot_fits
from refstore.engines.native.eviction cimport is_full
from refstore.engines.native.points cimport is_same_process, look_for_signals, python_ran
from refstore.engines.native.news cimport tell_news
from refstore.engines.native.errors cimport put_error, room_error
from refstore.engines.native.room cimport (
    begin_wait, collect_garbage, end_turn, ensure_memory, FOR_HELD, is_thorough_due,
    is_turn_of_others, is_worth_a_try, NO_REMEDIES, RoomWait, sleep_for_room, try_to_allocate,
    waits_in_vain,
)
from refstore.engines.native.put cimport (
    Draft, ensure_committed, PIECE, publish_object, RELEASES_GIL, start_slot,
)
from refstore.engines.native.arrays cimport order_of, plain_number, set_shape, set_text, Shape

from refstore.payload.arrays import (
    axes_in_memory, describe, has_plain_view, plain_axes, stored_part,
)

cdef enum:
    ITEMS_AHEAD = 4             # whose places are asked for before they are looked at

cdef struct Item:
    uint64_t nbytes             # of the payload
    uint64_t spill              # of the description: what has no room in the label
    uint64_t slot
    uint64_t offset             # of its block
    uint64_t generation
    Py_ssize_t array            # of `arrays`, or -1
    int kind
    Name name                   # of `names`, which keep its bytes

cdef struct Piece:
    # of a payload, as it lies in this process
    const char *source
    uint64_t at                 # in the payload
    uint64_t nbytes
    Py_ssize_t item


cdef inline object no_memory_for(Py_ssize_t n):
    return MemoryError(f"no memory to put {n} objects at once")


@cython.final
@cython.no_gc
cdef class Batch:
    cdef Attachment att
    cdef uint64_t life
    cdef list objs
    cdef list names             # or None
    cdef list kept              # what else pieces are of
    cdef list arrays            # (dtype's number or 0, order, extents, text or None)
    cdef Item *items
    cdef uint64_t *blocks       # bytes of the block of each item
    cdef Py_ssize_t n
    cdef Py_ssize_t begun       # of them, that have slots
    cdef Py_ssize_t done        # of these, that are sealed, or given up
    cdef Piece *pieces
    cdef Py_ssize_t n_pieces
    cdef Py_ssize_t room_for_pieces
    cdef uint64_t nbytes        # of all pieces

    def __dealloc__(self):
        self.give_up()
        PyMem_Free(self.items)
        PyMem_Free(self.blocks)
        PyMem_Free(self.pieces)

    cdef void give_up(self) noexcept:
        # What is not sealed is given up by who began it, and by no child.
        if self.begun > self.done and is_same_process(&self.att.view, self.life):
            while self.done < self.begun:
                free_slot(&self.att.view, self.items[self.done].slot)
                self.done += 1
        self.begun = self.done = 0

    cdef int hold(self, Attachment att, list objs) except -1:
        # Nothing is looked at yet.
        self.att = att
        self.life = att.view.life
        self.objs = objs
        self.kept = []
        self.arrays = []
        self.n = self.room_for_pieces = len(objs)
        self.items = <Item*>PyMem_Malloc(max(self.n, 1) * sizeof(Item))
        self.pieces = <Piece*>PyMem_Malloc(max(self.n, 1) * sizeof(Piece))
        self.blocks = <uint64_t*>PyMem_Malloc(max(self.n, 1) * sizeof(uint64_t))
        if self.items == NULL or self.pieces == NULL or self.blocks == NULL:
            raise no_memory_for(self.n)
        return 0

    cdef int read_names(self, list names) except -1:
        cdef Py_ssize_t k
        self.names = names
        for k in range(self.n):
            read_name(&self.att.view, names[k], &self.items[k].name, False)
        return 0

    # Measuring

    cdef int measure_all(self) except -1:
        cdef Py_ssize_t k
        for k in range(self.n):
            self.items[k].spill = 0
            self.items[k].array = -1
            self.items[k].kind = KIND_BYTES
            if self.names is None:
                self.items[k].name.hashed = 0
            self.measure(k, self.objs[k])
        return 0

    cdef int measure(self, Py_ssize_t k, object obj) except -1:
        # As put_any() tells objects apart.
        if type(obj) is bytes:
            return self.add_all(k, PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj))
        if type(obj) is cnp.ndarray and not (<cnp.ndarray>obj).dtype.hasobject:
            return self.measure_array(k, obj)
        if isinstance(obj, (bytearray, memoryview)):
            return self.measure_buffer(k, PyMemoryView_FromObject(obj))
        return self.measure_pickled(k, obj)

    cdef int add(self, Py_ssize_t k, const char *source, uint64_t at, uint64_t nbytes) except -1:
        cdef Piece *pieces
        if self.n_pieces == self.room_for_pieces:
            pieces = <Piece*>PyMem_Realloc(self.pieces,
                                           (self.n_pieces * 2 + 8) * sizeof(Piece))
            if pieces == NULL:
                raise no_memory_for(self.n)
            self.pieces = pieces
            self.room_for_pieces = self.n_pieces * 2 + 8
        self.pieces[self.n_pieces].source = source
        self.pieces[self.n_pieces].at = at
        self.pieces[self.n_pieces].nbytes = nbytes
        self.pieces[self.n_pieces].item = k
        self.n_pieces += 1
        self.nbytes += nbytes
        return 0

    cdef int add_all(self, Py_ssize_t k, const char *source, uint64_t nbytes) except -1:
        self.items[k].nbytes = nbytes
        return self.add(k, source, 0, nbytes)

    cdef int measure_buffer(self, Py_ssize_t k, object view) except -1:
        # A view keeps what it shows from changing its size.
        cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(view)
        if not PyBuffer_IsContiguous(buffer, c'C'):
            from refstore.payload.arrays import octets_of
            return self.measure_buffer(k, octets_of(view))
        self.kept.append(view)
        return self.add_all(k, <char*>buffer.buf, <uint64_t>buffer.len)

    cdef int measure_pickled(self, Py_ssize_t k, object obj) except -1:
        frame = payload.encode(obj)
        python_ran(&self.att.view, self.life, "pickling one of many")
        self.kept.append(frame)
        self.items[k].kind = KIND_OBJECT
        self.items[k].nbytes = frame.nbytes
        for at, piece in frame.pieces:
            view = PyMemoryView_FromObject(piece)       # contiguous, by the contract of frames
            self.kept.append(view)
            self.add(k, <char*>PyMemoryView_GET_BUFFER(view).buf, at,
                     <uint64_t>PyMemoryView_GET_BUFFER(view).len)
        return 0

    cdef int measure_array(self, Py_ssize_t k, cnp.ndarray array) except -1:
        cdef:
            cnp.ndarray dense = array
            int number = plain_number(array.dtype)
            tuple axes = None
            char order = c'C'
            bytes text = None
        if not cnp.PyArray_IS_C_CONTIGUOUS(array):
            axes = axes_in_memory(array)
            order = order_of(axes)
            dense = np.ascontiguousarray(stored_part(array, axes).transpose(plain_axes(axes)))
            self.kept.append(dense)
        extents = tuple([array.shape[axis] for axis in range(cnp.PyArray_NDIM(array))])
        if not number or len(extents) > INLINE_DIMS or order == c'K':
            text = describe(array.dtype, extents,
                            tuple(range(len(extents))) if axes is None else axes)
            if not has_plain_view(text):
                order = c'K'
            python_ran(&self.att.view, self.life, "describing one of many arrays")
            if len(text) > LABEL_TEXT:
                self.items[k].spill = <uint64_t>len(text)
        self.items[k].kind = KIND_ARRAY
        self.items[k].array = len(self.arrays)
        self.arrays.append((number, order, extents, text))
        return self.add_all(k, <char*>cnp.PyArray_DATA(dense),
                            <uint64_t>cnp.PyArray_NBYTES(dense))

    # Room

    cdef uint64_t add_up_blocks(self) noexcept:
        # bytes of all that is put, as allocated; notes those of each
        cdef Py_ssize_t k
        cdef uint64_t block, nbytes = 0
        for k in range(self.n):
            block = block_for(self.items[k].nbytes + self.items[k].spill)
            self.blocks[k] = block
            nbytes += block
        return nbytes

    cdef int begin_all(self, Draft *terms) except -1:
        cdef:
            View *v = &self.att.view
            Lot lot
            RoomWait wait
            int got = 0
        lot.objects = lot.slots = <uint64_t>self.n
        lot.nbytes = self.add_up_blocks()
        lot.blocks = self.blocks
        lot.may_fit = False
        if lot.objects > v.slot_limit:
            got = ERR_FULL_SLOTS
        elif self.nbytes > v.header.capacity or lot.nbytes > v.g.pages * PAGE:
            got = ERR_TOO_LARGE
        elif lot.objects:
            begin_wait(v, &wait, 0)
            try:
                got = self.wait_to_begin(terms, &lot, &wait)
            finally:
                if is_same_process(v, self.life):
                    end_turn(v, &wait)
        if got != 0:
            raise room_error(v, got, self.nbytes, terms.deadline != 0)
        return 0

    cdef int wait_to_begin(self, Draft *terms, const Lot *lot, RoomWait *wait) except? -128:
        # As allocate_slot() and wait_for_room(). Nothing is held while this waits: two batches
        # would wait for each other.
        cdef:
            View *v = &self.att.view
            uint64_t now
            Nap nap
            int got = ERR_FULL
        if terms.deadline == 0 or not is_turn_of_others(v, wait.number):
            got = self.begin_or_free(terms, lot, wait, True)
        while is_full(got) and now_ns() < terms.deadline and not waits_in_vain(v, lot, got):
            forget_recent(v)            # else the pieces that we gave back stay as they were cut
            # After it, since what we give back ourselves is no news. What others free in between is
            # seen a nap later.
            begin_nap(&nap, &v.pool.room, &v.pool.room_until, LIVENESS_NAP_MS)
            sleep_for_room(v, self.life, self.nbytes, &nap, terms.deadline, terms.is_closed,
                           &wait.asleep_since)
            now = now_ns()
            if now >= nap.end:
                recover_dead(v, False)
            # has_tried stays False: who has the turn tries after each nap, news or not
            if is_worth_a_try(v, wait, 0, now, terms.deadline):
                got = self.begin_or_free(terms, lot, wait, is_thorough_due(wait, now))
        return got

    cdef int begin_or_free(self, Draft *terms, const Lot *lot, RoomWait *wait,
                           bint is_thorough) except? -128:
        # What may free room is done while nothing is held: else others lack what we hold meanwhile.
        cdef View *v = &self.att.view
        cdef int got = self.try_to_begin(terms, lot[0], NO_REMEDIES)
        if is_thorough and is_full(got):
            wait.thorough_at = now_ns()
            recover_dead(v, True)
            tell_news(v, self.life)
            sweep(v, MAX_ROWS)      # as try_to_allocate() does
            collect_garbage(v, self.life)
            got = self.try_to_begin(terms, lot[0], FOR_HELD)
        if (got == ERR_FULL or got == ERR_FULL_SLOTS) and lot_fits(v, lot, False):
            # What was begun or has gone one by one may have used or left the wrong gaps.
            evict_all(v)
            got = merge_free_pages(v)
            if got == 0:
                got = self.try_to_begin(terms, lot[0], NO_REMEDIES)
        wait.tried_at = now_ns()
        return got

    cdef int try_to_begin(self, Draft *terms, Lot lot, int step) except? -128:
        # All or none. `lot`: what is left of it to get room; `step`: as of try_to_allocate().
        cdef:
            View *v = &self.att.view
            Item *item
            int got
        while self.begun < self.n:
            item = &self.items[self.begun]
            got = self.find_slot(item, terms, step, &lot)
            if got != 0:
                self.give_up()
                return got
            lot.objects -= 1
            lot.slots -= 1
            lot.nbytes -= lot.blocks[0]
            lot.blocks += 1
            terms.slot = item.slot
            start_slot(v, terms, item.nbytes)
            item.offset = v.slots[item.slot].offset
            item.generation = terms.generation
            self.begun += 1
        return 0

    cdef int find_slot(self, Item *item, const Draft *terms, int step, Lot *lot) except? -128:
        # As find_slot() in put.pxd, once it is known whose turn it is.
        cdef View *v = &self.att.view
        cdef uint64_t nbytes = item.nbytes + item.spill
        cdef int got = ERR_FULL
        if not v.evicts:
            got = ensure_memory(v, take_spare(v, nbytes, &item.slot), &item.slot)
        if got == 0 or got == ERR_DAMAGED:
            return got
        return try_to_allocate(v, nbytes, terms.deadline, step, lot, &item.slot)

    # What is written

    cdef int describe_all(self, const Draft *terms) except -1:
        cdef Py_ssize_t k
        for k in range(self.n):
            if self.items[k].kind != KIND_BYTES:
                assign(self.att.view.slots[self.items[k].slot].kind, <uint8_t>self.items[k].kind)
            if self.items[k].array >= 0:
                self.describe(terms, self.items[k].slot, self.arrays[self.items[k].array])
        return 0

    cdef int describe(self, const Draft *terms, uint64_t i, tuple array) except -1:
        cdef:
            View *v = &self.att.view
            Shape shape
            bytes text = array[3]
            int got
        if text is None:
            shape.ndim = len(array[2])
            for axis in range(shape.ndim):
                shape.dims[axis] = array[2][axis]
            set_shape(v, i, array[0], array[1], &shape)
            return 0
        assign(v.slots[i].order, <uint8_t>array[1])
        if len(text) <= LABEL_TEXT:
            got = ensure_committed(v, terms, i, True)
            if got != 0:
                raise put_error(v, got, self.nbytes, None)
        set_text(v, &v.slots[i], i, PyBytes_AS_STRING(text), len(text))
        return 0

    cdef int copy_all(self) except -1:
        cdef:
            Py_ssize_t k = 0
            uint64_t done = 0   # of piece k
        if self.nbytes < RELEASES_GIL:
            self.copy_some(&k, &done)
            return 0
        while k < self.n_pieces:
            with nogil:
                self.copy_some(&k, &done)
            look_for_signals(&self.att.view, self.life, "copying many objects")
        return 0

    cdef void copy_some(self, Py_ssize_t *k, uint64_t *done) noexcept nogil:
        # from there on, as much as is copied between two looks at signals
        cdef uint64_t left = PIECE, n
        cdef Piece *piece
        cdef char *target
        while left and k[0] < self.n_pieces:
            piece = &self.pieces[k[0]]
            n = min(left, piece.nbytes - done[0])
            target = self.att.view.base + self.items[piece.item].offset
            copy(target + piece.at + done[0], piece.source + done[0], n)
            left -= n
            done[0] += n
            if done[0] == piece.nbytes:
                k[0] += 1
                done[0] = 0

    # The seals

    cdef int publish_all(self, Draft *terms, list refs, bint replace) except -1:
        # What the error of a name that is taken says, the refs of those before it, are not to lose.
        cdef:
            View *v = &self.att.view
            object name = None
            Item *item
            Py_ssize_t k
        for k in range(ITEMS_AHEAD):
            self.prefetch_item(k)
        try:
            for k in range(self.n):
                item = &self.items[k]
                self.prefetch_item(k + ITEMS_AHEAD)
                if self.names is not None:
                    name = self.names[k]
                self.done += 1
                terms.slot = item.slot
                publish_object(v, terms, name, &item.name, replace)
        except ObjectExistsError as error:
            error.refs = refs[:self.done - 1]
            raise
        return 0

    cdef void prefetch_item(self, Py_ssize_t k) noexcept:
        if k >= self.n:
            return
        prefetch(&self.att.view.slots[self.items[k].slot])
        if self.names is not None:
            prefetch_name(&self.att.view, self.items[k].name.hashed)

    cdef list refs(self):
        cdef Py_ssize_t k
        return [make_ref(self.att.view.tag, self.items[k].slot, self.items[k].generation)
                for k in range(self.n)]
