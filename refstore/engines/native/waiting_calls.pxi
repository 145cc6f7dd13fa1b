# The calls of a store that get objects: of those, `timeout` says how long to wait for other
# processes. `get` is here, and costs nothing more where it does not wait.

from libc.stdint cimport int64_t, uint64_t

from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error, with_blocker
from refstore.engines.native.layout cimport COUNT_GETS, NameLock
from refstore.engines.native.view cimport count, row_at, View
from refstore.engines.native.waiting cimport begin_nap, Nap, NAP_MS
from refstore.engines.native.slots cimport unpin, word_row
from refstore.engines.native.names cimport find, Found, Name, stripe_named
from refstore.engines.native.claims cimport Claim, find_claim
from refstore.engines.native.stripes cimport see_changes
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.sleeping cimport deadline_ns, sleep_on_names, sleep_once

from refstore import _waiting_messages
from refstore._arguments import checked_count, listed_names


cdef class WaitingCalls(ObjectCalls):
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

    def wait(self, name, *, newer_than=None, timeout=None):
        cdef:
            Attachment att = self.use()
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
            uint64_t deadline = deadline_ns(timeout)
            Found found, known = nothing_known()
            int got
        if newer_than is not None:
            read_known(&att.view, newer_than, &known)
        got = self.await_object(att, f"wait({name!r})", name, &known, &found, deadline, timeout)
        return as_direct(buf) if take_over(buf, att, &found, got) else buf

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

    def wait_any(self, names, *, count=1, timeout=None):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t life = v.life
            uint64_t since = 0
            uint64_t deadline = deadline_ns(timeout)
            list asked = listed_names(names)
            int64_t found, wanted = checked_count(count, asked)
            NamesAsked all_names = NamesAsked(asked)
        python_ran(v, life, "listing names")
        all_names.read(v)
        while True:
            see_changes(v, &all_names.stripes, NAP_MS)
            found = all_names.look(v)
            if found < 0:
                raise get_error(v, <int>found, asked[0], False)
            if found >= wanted:
                return all_names.ready()
            if not sleep_on_names(v, life, &all_names.stripes, deadline, &since,
                                  f"wait_any() of {len(asked)} names"):
                raise _waiting_messages.not_enough(att.path, all_names.ready(), wanted, len(asked),
                                                   timeout)
            self.use()              # as above

    def _watch(self):
        return new_watch(self.use())


cdef inline bint take_over(PinnedBuffer buf, Attachment att, const Found *found,
                           int got) except -1:
    # The pin that find() took, which ended with `got`, is the buffer's. True: as_direct() gives
    # what is to stand in its place.
    cdef bint is_direct = adopt_pin(buf, att, found.slot, found.generation).order != c'C'
    if got > 0:
        recover_blocker_if_dead(&att.view, got)
    count(&att.view, COUNT_GETS, 1)
    return is_direct


cdef inline object claimed_by(View *v, const Name *name):
    # the pid of who has claimed it, or None
    cdef Claim claim
    return row_at(v, word_row(claim.word)).pid if find_claim(v, name, &claim) else None


cdef inline Found nothing_known() noexcept nogil:
    cdef Found known
    known.slot = 0
    known.generation = ~<uint64_t>0     # no object's
    known.cell = NULL
    known.cell_value = 0
    known.any_alike = False
    return known


cdef int read_known(View *v, object newer_than, Found *known) except -1:
    # An object of another store is older than all of this one.
    if type(newer_than) is not ObjectRef:
        raise _waiting_messages.no_version(newer_than)
    if (<ObjectRef>newer_than).tag == v.tag:
        known.slot = (<ObjectRef>newer_than).slot
        known.generation = (<ObjectRef>newer_than).generation
    return 0


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
