# get_or_put(): the object that a name has, or one that this call makes while all others wait.

from cpython.object cimport PyCallable_Check
from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport load_relaxed
from refstore.engines.native.error_codes cimport (
    ERR_CLAIMED, ERR_EXISTS, ERR_NO_MEMORY, ERR_NOT_FOUND, kind_of_error,
)
from refstore.engines.native.layout cimport CLAIMED, COUNT_HITS, COUNT_MISSES, NameLock
from refstore.engines.native.system cimport now_ns
from refstore.engines.native.view cimport count, pins_are_committed, row_at, row_is_dead, View
from refstore.engines.native.memory cimport ensure_pins_committed
from refstore.engines.native.waiting cimport begin_nap, FOREVER, LIVENESS_NAP_MS, Nap
from refstore.engines.native.slots cimport make_word, word_generation, word_row
from refstore.engines.native.names cimport find, Found, Name, read_name, stripe_named
from refstore.engines.native.claims cimport Claim, find_claim, follow_claim, set_waits_for
from refstore.engines.native.recovery cimport recover_row
from refstore.engines.native.points cimport is_same_process, look_for_signals, python_ran
from refstore.engines.native.errors cimport blocked, put_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.sleeping cimport deadline_ns, sleep_through
from refstore.engines.native.put cimport (
    begin_object, claim_for, discard, Draft, prepare, publish_object, set_owner,
)

from contextvars import ContextVar
from refstore import _threads, _waiting_messages
from refstore._errors import ObjectExistsError, StoreFullError

cdef uint64_t NO_SLOT = ~<uint64_t>0

cdef enum MakingLimit:
    SLOT_NAP_MS = 1000          # for which a call waits for a slot for its claim, and looks again
    SUSPICIONS = 2              # looks that see makers wait for each other, until it is so
    MOST_SUSPICIONS = 20        # if it should have been another one of them who said it

# (tag of the store, slot, generation) of the claims whose factories run in this context, and in
# tasks that they start.
cdef object own_claims = ContextVar("refstore_making_by_native", default=())


cdef class MakingCalls(WaitingCalls):
    def get_or_put(self, name, factory, *, timeout=None, owned=False, evictable=None):
        cdef:
            Attachment att = self.use()
            # first: nothing may fail once the pin is ours
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
            uint64_t deadline = FOREVER if timeout is None else deadline_ns(timeout)
            Name parsed
            Found found
            int got
        if not PyCallable_Check(factory):
            raise _waiting_messages.no_factory(factory)
        read_name(&att.view, name, &parsed, False)
        got = find(&att.view, &parsed, &found, True)
        if got >= 0:
            count(&att.view, COUNT_HITS, 1)
        else:
            got = Making(self, att, name, factory, timeout).run(deadline, owned, evictable, &found)
        return as_direct(buf) if take_over(buf, att, &found, got) else buf


@cython.final
cdef class Making:
    # One such call that did not find the object at once.
    cdef WaitingCalls store
    cdef Attachment att
    cdef object name
    cdef object factory
    cdef object timeout
    cdef uint64_t asleep_since  # ns; 0 before the first sleep
    cdef object made            # what the factory has returned
    cdef bint is_made
    cdef Name parsed            # of `name`, which keeps its bytes
    cdef Draft terms            # what the caller asked for
    cdef Draft claim            # the claim's slot

    def __cinit__(self, WaitingCalls store not None, Attachment att not None, name, factory,
                  timeout):
        self.store = store
        self.att = att
        self.name = name
        self.factory = factory
        self.timeout = timeout

    cdef str what(self):
        return f"get_or_put({self.name!r})"

    cdef int run(self, uint64_t deadline, object owned, object evictable,
                 Found *found) except? -128:
        # As find(), with a pin.
        cdef View *v = &self.att.view
        cdef int got
        prepare(v, &self.terms)
        self.terms.deadline = deadline
        self.terms.is_closed = &self.store.is_closed
        set_owner(&self.terms, owned, evictable)
        read_name(v, self.name, &self.parsed, False)
        while True:
            got = self.wait_or_claim(found)
            if got >= 0:
                count(v, COUNT_HITS, 1)
                return got
            if self.make(found):
                count(v, COUNT_MISSES, 1)
                return 0

    # --- until there is an object, or a claim of ours

    cdef int wait_or_claim(self, Found *found) except? -128:
        # The result of find(); ERR_NOT_FOUND: we have claimed the name.
        cdef:
            View *v = &self.att.view
            NameLock *stripe = stripe_named(v, self.parsed.hashed)
            Nap nap
            Claim claim
            Found known = nothing_known()
            bint is_known, may_sleep = False
            int got, suspicions = 0
            list own = [(slot, generation) for tag, slot, generation in own_claims.get()
                        if tag == v.tag]
        try:
            while True:
                # Not at first: as long as others take us for asleep, whoever changes a name of the
                # stripe makes a system call, and most often that is us.
                if may_sleep:
                    begin_nap(&nap, &stripe.changes, &stripe.awake_until, LIVENESS_NAP_MS)
                got = find_newer(v, self.name, &self.parsed, &known, found, &is_known)
                if got >= 0:
                    return got
                if not find_claim(v, &self.parsed, &claim):
                    if self.claim_name():
                        return ERR_NOT_FOUND
                elif may_sleep and not self.recover_maker(&claim):
                    self.require_no_writer(&claim)
                    suspicions = self.require_no_circle(&claim, own, suspicions)
                    self.sleep(&nap, &claim, own)
                may_sleep = True
        finally:
            if is_same_process(v, self.terms.life):
                note_waiting(v, own, NULL)

    cdef bint recover_maker(self, const Claim *claim) except -1:
        # whether the maker was dead and its claim is none any more
        cdef View *v = &self.att.view
        cdef uint64_t row = word_row(claim.word)
        cdef int got
        if not row_is_dead(v, row):
            return False
        got = recover_row(v, row)
        if got < 0:
            raise blocked(v, got, self.what())
        return got == 1

    cdef int require_no_writer(self, const Claim *claim) except -1:
        # An error if the claim is that of a Writer which only this very thread could seal. Another
        # thread may have sealed it until it ended, so the claim is looked at once more, at last.
        cdef View *v = &self.att.view
        cdef Claim last
        if self.terms.deadline == FOREVER and claim.is_hard and word_row(claim.word) == v.row \
                and not _threads.has_others() and find_claim(v, &self.parsed, &last) \
                and last.slot == claim.slot and last.word == claim.word:
            raise _waiting_messages.own_writer(self.att.path, self.name)
        return 0

    cdef int require_no_circle(self, const Claim *claim, list own, int suspicions) except -1:
        # How many looks in a row have seen that the maker waits for us. Of all in the circle, the
        # one with the lowest slot says so.
        cdef View *v = &self.att.view
        cdef Claim at = claim[0]
        cdef set seen = set()
        if not own:
            return 0
        while (at.slot, word_generation(at.word)) not in own:
            if at.slot in seen:
                return 0        # a circle of others
            seen.add(at.slot)
            if not follow_claim(v, &at):
                return 0
        suspicions += 1
        if not seen or suspicions >= MOST_SUSPICIONS \
                or suspicions >= SUSPICIONS and at.slot < min(seen):
            raise _waiting_messages.own_factory(self.att.path, self.name)
        return suspicions

    cdef int sleep(self, const Nap *nap, const Claim *claim, list own) except -1:
        cdef View *v = &self.att.view
        if now_ns() >= self.terms.deadline:
            raise _waiting_messages.not_made(self.att.path, self.name,
                                             row_at(v, word_row(claim.word)).pid, self.timeout)
        note_waiting(v, own, claim)
        sleep_through(v, self.terms.life, nap, self.terms.deadline, &self.asleep_since,
                      self.what())
        look_for_signals(v, self.terms.life, "waiting for a maker")
        self.store.use()            # still: another thread may have closed the store
        return 0

    cdef bint claim_name(self) except -1:
        # False: somebody else has the name, or there is no slot, or no memory for its label, yet.
        cdef View *v = &self.att.view
        cdef uint64_t deadline = self.terms.deadline
        cdef int got
        prepare(v, &self.claim)
        self.claim.is_closed = self.terms.is_closed
        self.claim.deadline = min(deadline, now_ns() + SLOT_NAP_MS * <uint64_t>1000000) \
            if deadline else 0
        try:
            begin_object(v, &self.claim, 0, 0)
        except StoreFullError:
            if self.claim.deadline == deadline or now_ns() < self.claim.deadline:
                raise
            return False
        try:
            got = claim_for(v, &self.claim, &self.parsed, False, False)
            if got != 0 and not self.may_look_again(got):
                raise put_error(v, got, 0, self.name)
        except BaseException:
            discard(v, &self.claim)
            raise
        if got != 0:
            discard(v, &self.claim)
        return got == 0

    cdef bint may_look_again(self, int error) noexcept:
        # Somebody else has the name; or may have it by the time that there is memory for a label.
        cdef int kind = kind_of_error(error)
        return kind == ERR_EXISTS or kind == ERR_CLAIMED \
            or kind == ERR_NO_MEMORY and now_ns() < self.terms.deadline

    # --- under our claim

    cdef bint make(self, Found *found) except -1:
        # Whether it is put, with a pin of ours; else somebody else has put something meanwhile.
        cdef View *v = &self.att.view
        claim = v.tag, self.claim.slot, self.claim.generation
        try:
            token = own_claims.set((*own_claims.get(), claim))
            try:
                if not self.is_made:
                    self.call_factory()
                return self.put_made(found)
            finally:
                own_claims.reset(token)
        finally:
            discard(v, &self.claim)

    cdef int call_factory(self) except -1:
        self.made = self.factory()
        self.is_made = True
        python_ran(&self.att.view, self.terms.life, "a factory")
        self.store.use()
        return 0

    cdef bint put_made(self, Found *found) except -1:
        cdef View *v = &self.att.view
        cdef Draft draft = self.terms
        cdef int got
        draft.slot = NO_SLOT
        draft.claim = self.claim.slot + 1
        try:
            put_any(self.att, &draft, self.made)
        finally:
            if draft.slot == self.claim.slot:   # it has become the object's own
                self.claim.is_begun = False
        found.slot = draft.slot
        found.generation = draft.generation
        try:
            got = ensure_pinnable(v, draft.slot)
            if got != 0:
                raise put_error(v, got, v.slots[draft.slot].nbytes, self.name)
        except BaseException:
            discard(v, &draft)
            raise
        draft.is_pinned = True          # nothing evicts it before its maker has it
        try:
            publish_object(v, &draft, self.name, &self.parsed, False)
        except ObjectExistsError:
            return False
        if draft.owned:
            self.att.delete_unless_open()
        return True


cdef inline int ensure_pinnable(View *v, uint64_t i) except -128:
    # 0, or an error
    cdef uint64_t since = 0
    cdef int got = 0
    if not pins_are_committed(v, i):
        got = ensure_pins_committed(v, i)
        while got != 0 and may_retry(v, &got, &since):
            got = ensure_pins_committed(v, i)
    return got


cdef inline void note_waiting(View *v, list own, const Claim *claim) noexcept:
    # The makers of our claims wait for that one, or for none. A task that a factory has started may
    # outlive its claim.
    cdef uint64_t slot, generation, word
    for slot, generation in own:
        word = load_relaxed(&v.slots[slot].word)        # relaxed: ours, or no matter
        if word == make_word(generation, CLAIMED, v.row):
            set_waits_for(v, slot, claim)
