# The calls of a store on one object at a time, and those on the store as a whole (`names`, `len`,
# `trim`, recovery). `put`, `create` and `get` wait if they are given a `timeout`.
# `engines/binding.py` makes them methods of Store.

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport unlikely
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_CLAIMED, ERR_EXISTS, ERR_NOT_FOUND, ERR_SIGNALS, kind_of_error, with_blocker,
)
from refstore.engines.native.layout cimport COUNT_DELETES, NameLock
from refstore.engines.native.system cimport sleep_us
from refstore.engines.native.view cimport count, PIDS_KEPT, Recovered, row_at, row_is_dead, View
from refstore.engines.native.waiting cimport begin_nap, Nap, NAP_MS
from refstore.engines.native.slots cimport pin, unpin, word_row
from refstore.engines.native.names cimport (
    find, Found, Name, prefetch_name, read_name, stripe_named,
)
from refstore.engines.native.claims cimport Claim, find_claim
from refstore.engines.native.publication cimport remove, remove_named
from refstore.engines.native.recovery cimport (
    recover_blocker_if_dead, recover_blocker_of, recover_dead,
)
from refstore.engines.native.trim cimport trim_free
from refstore.engines.native.stats cimport count_pins, next_live, slot_name
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.errors cimport blocked, get_error, put_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.sleeping cimport deadline_ns, sleep_once
from refstore.engines.native.put cimport (
    begin_object, block_of, claim_for, discard, Draft, look_for_owner, prepare, publish_object,
    put_buffer, put_bytes, require_committed, set_meta, set_owner,
)
from refstore.engines.native.arrays cimport put_array, start_by_header, start_shaped

cdef object UNWRITTEN, no_such_object, other_store     # C variables: quicker, and not in the stub
import numpy as np
from refstore import _messages, _waiting_messages
from refstore._arguments import (
    checked_size, require_bytes_or_shape, require_name, require_order,
)
from refstore._errors import ObjectNotFoundError, RefstoreError, UNWRITTEN
from refstore._messages import no_such_object, other_store
from refstore._names import require_text

cdef extern from "Python.h":
    ctypedef struct ErrorType "PyTypeObject":
        object (*tp_new)(type cls, tuple args, void *keywords)


cdef inline int remove_key(View *v, object key, const Name *name) noexcept:
    # `name`: what a key that is not a ref says.
    if type(key) is not ObjectRef:
        return remove_named(v, name)
    if (<ObjectRef>key).tag == v.tag:
        return remove(v, (<ObjectRef>key).slot, (<ObjectRef>key).generation)
    return ERR_NOT_FOUND


cdef int remove_again(View *v, object key, const Name *name, int got) except? -128:
    # after an error, which may pass
    cdef uint64_t since = 0
    while got < 0 and may_retry(v, &got, &since):
        got = remove_key(v, key, name)
    if got < 0:
        recover_blocker_of(v, got)
    return got


@cython.no_gc_clear     # what it owns goes when it is collected, in whatever order
cdef class ObjectCalls(Reports):
    # The calls on one object, and on all.
    cdef Attachment att
    cdef bint is_closed         # what a call that waits looks at

    def __dealloc__(self):
        self.close_store()

    cdef inline void close_store(self) noexcept:
        cdef Attachment att = self.att
        if att is not None:
            self.is_closed = True
            self.att = None
            att.close_store()

    @cython.final
    cdef inline Attachment use(self):
        if self.att is None or self.att.view.alive[0] == 0:
            self.refuse()
        return self.att

    cdef int refuse(self) except -1:
        if self.att is None:
            raise _messages.closed()
        raise RefstoreError(_messages.forked(self.att.path))

    cdef object in_use(self, View **v):
        cdef Attachment att = self.use()
        v[0] = &att.view
        return att

    def _open(self, Attachment att not None):
        self.close_store()
        self.att = att
        self.is_closed = False
        att.stores += 1

    @property
    def _attachment(self):
        return self.use()

    @property
    def closed(self):
        return self.att is None

    def close(self):
        self.close_store()

    def put(self, obj, *, name=None, replace=False, timeout=0, owned=False, evictable=None,
            meta=b""):
        cdef:
            Attachment att = self.use()
            ObjectRef ref
            Draft draft
            Name parsed
            bint replaces
        prepare(&att.view, &draft)
        draft.is_closed = &self.is_closed
        replaces = replace                      # early: it may be anything
        read_terms(&draft, timeout, owned, evictable, meta)
        ref = ObjectRef.__new__(ObjectRef)      # nothing may fail between the seal and the return
        parsed.hashed = 0
        if name is not None:
            read_name(&att.view, name, &parsed, False)
            prefetch_name(&att.view, parsed.hashed)
            if not replaces:
                require_free_name(&att.view, name, &parsed)
        put_any(att, &draft, obj)
        publish_object(&att.view, &draft, name, &parsed, replaces)
        set_ref(ref, att.view.tag, draft.slot, draft.generation)
        if draft.owned:
            att.delete_unless_open()
        return ref

    def create(self, nbytes=None, *, shape=None, dtype=None, order="C", header=None, name=None,
               replace=False, claim=False, timeout=0, owned=False, evictable=None, meta=b""):
        cdef:
            Attachment att = self.use()
            Writer writer = Writer.__new__(Writer)
            Draft draft
            bint claims, replaces
        prepare(&att.view, &draft)
        draft.is_closed = &self.is_closed
        claims, replaces = claim, replace       # early: they may be anything
        read_terms(&draft, timeout, owned, evictable, meta)
        python_ran(&att.view, draft.life, "reading terms")
        require_bytes_or_shape(nbytes, shape, dtype, header)
        require_order(order)
        require_name(claims, name)
        writer.parsed.hashed = 0
        if name is not None:
            writer.name = str.__str__(name) if isinstance(name, str) else name      # of a subclass
            read_name(&att.view, writer.name, &writer.parsed, False)
            require_creatable(&att.view, name, &writer.parsed, replaces)
        if header is not None:
            start_by_header(&att.view, &draft, header, checked_size(nbytes))
        elif nbytes is not None:
            begin_object(&att.view, &draft, checked_size(nbytes), 0)
        else:
            start_shaped(&att.view, &draft, shape, np.dtype(dtype), order)
        if claims:
            claim_hard(&att.view, &draft, name, &writer.parsed, replaces)
            writer.claims = True
        elif name is not None:
            require_committed(&att.view, &draft, True)      # before anything is written
        writer.slot = draft.slot
        writer.att = writer.home = att
        writer.tag = att.view.tag
        writer.generation = draft.generation
        writer.data = block_of(&att.view, &draft)
        writer.nbytes = <Py_ssize_t>att.view.slots[writer.slot].nbytes
        writer.older_arrays = []
        writer.may_shrink = nbytes is not None and header is None
        writer.is_writable = True
        writer.enlist()
        writer.replaces = replaces
        return writer

    cdef inline int pin_key(self, Attachment att, object key, Found *found) except? -128:
        # 0, or row + 1 as find() says, and a pin; or an error
        cdef Name name
        if type(key) is ObjectRef:
            found.slot = (<ObjectRef>key).slot
            found.generation = (<ObjectRef>key).generation
            if (<ObjectRef>key).tag != att.view.tag:
                return ERR_NOT_FOUND
            return pin(&att.view, found.slot, found.generation)
        read_name(&att.view, key, &name, True)
        return find(&att.view, &name, found, True)

    def get(self, key, *, timeout=0, writable=False):
        cdef:
            Attachment att = self.use()
            # first: nothing may fail once the pin is ours
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
            Found found, known
            uint64_t since = 0, deadline = 0
            int got
        if timeout is not NO_WAIT:
            deadline = deadline_ns(timeout)
        while True:
            got = self.pin_key(att, key, &found)
            if got >= 0:
                break
            if not may_retry(&att.view, &got, &since):
                recover_blocker_of(&att.view, got)
                if not deadline or kind_of_error(got) != ERR_NOT_FOUND or type(key) is ObjectRef:
                    raise key_error(att, key, got)
                known = nothing_known()
                got = self.await_object(att, f"get({key!r})", key, &known, &found, deadline,
                                        timeout)
                break
        if take_over(buf, att, &found, got):
            buf = as_direct(buf)
        if writable is not False and writable:
            buf.go_private()
        return buf

    cdef int await_object(self, Attachment att, str what, object name, const Found *known,
                          Found *found, uint64_t deadline, object timeout) except? -128:
        # The result of find(), with a pin, once the name has an object other than `known`. `what`
        # waits, as in "wait('weights')".
        cdef:
            View *v = &att.view
            uint64_t life = v.life
            uint64_t since = 0
            NameLock *stripe
            Nap nap
            Name parsed
            bint is_known = False
            int got
        read_name(v, name, &parsed, False)
        stripe = stripe_named(v, parsed.hashed)
        while True:
            begin_nap(&nap, &stripe.changes, &stripe.awake_until, NAP_MS)
            got = find_newer(v, name, &parsed, known, found, &is_known)
            if got >= 0:
                return got
            if not sleep_once(v, life, &nap, deadline, &since, what):
                break
            self.use()              # still: another thread may have closed the store
        if is_known:
            raise _waiting_messages.not_replaced(att.path, name, timeout)
        raise _waiting_messages.not_published(att.path, name, timeout, claimed_by(v, &parsed))

    def delete(self, key):
        cdef Attachment att = self.use()
        cdef int got = self.remove_one(&att.view, key)
        if got < 0:
            raise get_error(&att.view, got, key, is_foreign(&att.view, key))

    @cython.final
    cdef inline int remove_one(self, View *v, object key) except? -128:
        # 0 or more, or an error.
        cdef Name name
        cdef int got
        if type(key) is not ObjectRef:
            read_name(v, key, &name, True)
        got = remove_key(v, key, &name)
        if unlikely(got < 0):
            got = remove_again(v, key, &name, got)
        if got >= 0:
            recover_blocker_if_dead(v, got)
            count(v, COUNT_DELETES, 1)
        return got

    def refcount(self, key):
        cdef Attachment att = self.use()        # stays, whatever another thread closes meanwhile
        cdef Found found
        require_object(&att.view, key, &found)
        return 1 + count_pins(&att.view, found.slot)

    def ref(self, name):
        cdef Attachment att = self.use()        # as above
        cdef Found found
        require_object(&att.view, name, &found)
        return make_ref(att.view.tag, found.slot, found.generation)

    def __contains__(self, key):
        cdef Attachment att = self.use()        # as above
        cdef Found found
        return find_object(&att.view, key, &found)

    def __len__(self):
        return len(self._live(None))

    def __iter__(self):
        return iter(self._live(None))

    def names(self, prefix=""):
        return self._live(require_text(prefix, "a prefix"))

    cdef list _live(self, str prefix):
        # refs, or names that begin so
        cdef:
            Attachment att = self.use()     # stays, whatever a finalizer closes meanwhile
            View *v = &att.view
            uint64_t generation
            int64_t i = next_live(v, 0, &generation)
            list found = []
        while i >= 0:
            if prefix is None:
                found.append(make_ref(v.tag, <uint64_t>i, generation))
            else:
                name = slot_name(v, <uint64_t>i, generation)
                if name is not None and name.startswith(prefix):
                    found.append(name)
            i = next_live(v, <uint64_t>i + 1, &generation)
        # a name that is going over to another object is there twice
        return list(dict.fromkeys(found))

    def _recover_all(self):
        # the fields of Recovery, in its order
        cdef Attachment att = self.use()
        cdef uint64_t since = 0
        cdef int got = recover_dead(&att.view, True)
        while got < 0 and may_retry(&att.view, &got, &since):
            got = recover_dead(&att.view, True)
        if got != 0:
            raise blocked(&att.view, got, "recover()")
        return take_recovery_report(&att.view)

    def trim(self):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t given = 0, total = 0, since = 0
            int got
        while True:
            got = trim_free(v, &given)
            total += given
            if given:                   # it gets on, and somebody else is waited for
                since = 0
            if kind_of_error(got) == ERR_SIGNALS:
                with nogil:             # for a moment, or no other thread wakes before we go on
                    sleep_us(1)
            if not may_retry(v, &got, &since):
                break
        error = blocked(v, got, "trim()")
        if error is not None:
            raise error
        return total


cdef inline object key_error(Attachment att, object key, int error):
    # As get_error(), and quicker where nothing is there, since who asks a cache hears that often:
    # what _messages.not_found() makes.
    cdef bint foreign = is_foreign(&att.view, key)
    if kind_of_error(error) == ERR_NOT_FOUND:
        return (<ErrorType*>ObjectNotFoundError).tp_new(
            ObjectNotFoundError,
            (UNWRITTEN, other_store if foreign else no_such_object, att.path, key), NULL)
    return get_error(&att.view, error, key, foreign)


cdef inline Found nothing_known() noexcept nogil:
    cdef Found known
    known.slot = 0
    known.generation = ~<uint64_t>0     # no object's
    known.cell = NULL
    known.cell_value = 0
    known.any_alike = False
    return known


cdef inline object claimed_by(View *v, const Name *name):
    # the pid of who has claimed it, or None
    cdef Claim claim
    return row_at(v, word_row(claim.word)).pid if find_claim(v, name, &claim) else None


cdef int find_newer(View *v, object text, const Name *name, const Found *known, Found *found,
                    bint *is_known) except? -128:
    # The result of find(), with a pin, of another object than the known one, or ERR_NOT_FOUND.
    cdef uint64_t since = 0
    cdef int got = find(v, name, found, True)
    while got < 0 and may_retry(v, &got, &since):
        got = find(v, name, found, True)
    is_known[0] = got >= 0 and found.slot == known.slot and found.generation == known.generation
    if is_known[0]:
        got = with_blocker(ERR_NOT_FOUND, unpin(v, found.slot))
    if got < 0:
        recover_blocker_of(v, got)
        if kind_of_error(got) != ERR_NOT_FOUND:
            raise get_error(v, got, text, False)
        return ERR_NOT_FOUND
    return got


# Defaults of parameters: whoever leaves them out is spared a look at each.
cdef object NO_WAIT = 0
cdef object NO_META = b""


cdef inline int read_terms(Draft *draft, object timeout, object owned, object evictable,
                           object meta) except -1:
    if timeout is NO_WAIT and owned is False and evictable is None and meta is NO_META:
        return 0
    return read_given_terms(draft, timeout, owned, evictable, meta)


cdef int read_given_terms(Draft *draft, object timeout, object owned, object evictable,
                          object meta) except -1:
    if timeout is not NO_WAIT:
        draft.deadline = deadline_ns(timeout)
    if owned is not False or evictable is not None:
        set_owner(draft, owned, evictable)
    return 0 if meta is NO_META else set_meta(draft, meta)


cdef inline int require_free_name(View *v, object text, Name *name) except -1:
    # Early, so that nothing is copied in vain; publish() looks again under the name's lock.
    cdef uint64_t since = 0
    cdef int got = look_for_owner(v, name)
    while got != 1:
        if not may_retry(v, &got, &since):
            raise put_error(v, got if got < 0 else ERR_EXISTS, 0, text)
        got = look_for_owner(v, name)
    return 0


cdef inline int require_creatable(View *v, object text, Name *name, bint replace) except -1:
    cdef Claim claim
    if not replace:
        require_free_name(v, text, name)
    if find_claim(v, name, &claim) and claim.is_hard and not row_is_dead(v, word_row(claim.word)):
        raise put_error(v, blocked_by(ERR_CLAIMED, word_row(claim.word)), 0, text)
    return 0


cdef inline int claim_hard(View *v, Draft *draft, object text, const Name *name,
                           bint replace) except -1:
    cdef int got
    try:
        got = claim_for(v, draft, name, True, replace)
        if got != 0:
            raise put_error(v, got, v.slots[draft.slot].nbytes, text)
    except BaseException:
        discard(v, draft)
        raise
    return 0


cdef inline int put_any(Attachment att, Draft *draft, object obj) except -1:
    if type(obj) is bytes:
        return put_bytes(&att.view, draft, obj)
    return put_other(att, draft, obj)


cdef int put_other(Attachment att, Draft *draft, object obj) except -1:
    if type(obj) is cnp.ndarray and not (<cnp.ndarray>obj).dtype.hasobject:
        return put_array(&att.view, draft, obj)
    if isinstance(obj, (bytearray, memoryview)):
        return put_buffer(&att.view, draft, obj)
    return put_object(att, draft, obj)


cdef inline tuple take_recovery_report(View *v):
    # the fields of Recovery, in its order; counting begins again
    cdef Recovered back = v.recovered
    cdef uint64_t k, first = back.known - min(back.known, <uint64_t>PIDS_KEPT)
    memset(&v.recovered, 0, sizeof(v.recovered))
    v.told_dead = 0
    pids = [back.pids[k % PIDS_KEPT] for k in range(first, back.known)]
    return (back.processes, tuple(pids), back.pins, back.unfinished, back.published, back.locks,
            back.nbytes)
