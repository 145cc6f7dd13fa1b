# Who waits for many names: a call, until enough of them have objects; and one thread on behalf of
# others, until any changes.

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.system cimport futex_wake, MAX_WATCHED, now_ns, Watched
from refstore.engines.native.view cimport View
from refstore.engines.native.waiting cimport announce_any, Nap, NAP_MS, take_nap
from refstore.engines.native.names cimport find, Found, Name, read_name, stripe_of
from refstore.engines.native.stripes cimport (
    ask, clear_stripes, is_in, see_changes, sleep_on_all, sleeps_on_any, Stripes, watch_stripes,
    watch_word,
)
from refstore.engines.native.sleeping cimport begin_sleep, end_sleep

import weakref
from refstore import _waiting_messages


@cython.final
cdef class NamesAsked:
    # The names of one wait_any(), and which of them had objects at the last look.
    cdef list texts
    cdef Name *names
    cdef char *found
    cdef uint64_t n
    cdef Stripes stripes

    def __cinit__(self, list texts not None):
        self.texts = texts
        self.n = <uint64_t>len(texts)
        self.names = <Name*>calloc(self.n, sizeof(Name))
        self.found = <char*>calloc(self.n, 1)
        if self.names == NULL or self.found == NULL:
            raise MemoryError(f"no memory to wait for {self.n} names")

    def __dealloc__(self):
        free(self.names)
        free(self.found)

    cdef int read(self, View *v) except -1:
        cdef uint64_t i
        for i in range(self.n):
            read_name(v, self.texts[i], &self.names[i], False)
            ask(&self.stripes, stripe_of(self.names[i].hashed))
        return 0

    cdef int64_t look(self, View *v) noexcept nogil:
        # How many have objects: only where something changed is looked anew. Or an error.
        cdef uint64_t i
        cdef int64_t n = 0
        cdef int got
        cdef Found found
        for i in range(self.n):
            if is_in(self.stripes.changed, stripe_of(self.names[i].hashed)):
                got = find(v, &self.names[i], &found, False)
                if got < 0 and kind_of_error(got) != ERR_NOT_FOUND:
                    return got
                self.found[i] = got >= 0
            n += self.found[i]
        memset(self.stripes.changed, 0, sizeof(self.stripes.changed))
        return n

    cdef list ready(self):
        return [text for i, text in enumerate(self.texts) if self.found[i]]


@cython.final
cdef class Watch:
    """The `Watch` of this engine."""

    cdef object att             # weak
    cdef uint32_t poked         # futex word of this process's own, guarded by the GIL
    cdef bint is_on_any         # asleep where the private word is not seen
    cdef bint by_any            # as in Stripes

    cdef Attachment attachment(self):
        # None where nothing is to be seen any more
        cdef Attachment att = self.att()
        return att if att is not None and att.view.alive[0] else None

    def seen(self, names):
        cdef:
            Attachment att = self.attachment()
            Stripes stripes
            list numbers
        if att is None:
            return [0] * len(names)
        self.begin(&stripes)
        numbers = [ask_for(&att.view, &stripes, name) for name in names]
        see_changes(&att.view, &stripes, NAP_MS)
        return [stripes.seen[k] for k in numbers]

    def sleep(self, names, seen, double seconds):
        cdef:
            Attachment att = self.attachment()
            Stripes stripes
            Watched[MAX_WATCHED] words
            unsigned int n = 0
            uint64_t life = 0
            uint64_t deadline = now_ns() + <uint64_t>(max(min(seconds, 1e6), 0.0) * 1e9)
        self.begin(&stripes)
        if att is not None:
            if read_seen(&att.view, &stripes, names, seen) \
                    or see_changes(&att.view, &stripes, NAP_MS):
                self.poked = 0
                return
            self.is_on_any = sleeps_on_any(&stripes)
            if not self.is_on_any:
                n = watch_stripes(&att.view, &stripes, words)
            if names:
                begin_sleep(&att.view, _waiting_messages.an_await(names))
                life = att.view.life
            # The store may be closed while we sleep. The kernel finds the words gone then, or
            # somebody else's, and we do not look at them.
            att = None
        self.take_nap(&stripes, words, n, deadline)
        att = self.attachment()
        if names and att is not None and att.view.life == life:
            end_sleep(&att.view)

    cdef void begin(self, Stripes *stripes) noexcept:
        clear_stripes(stripes)
        stripes.by_any = self.by_any
        stripes.any.end = now_ns() + NAP_MS * 1000000

    cdef void take_nap(self, Stripes *stripes, Watched *words, unsigned int n,
                       uint64_t deadline) noexcept:
        cdef Nap own
        if not self.poked and self.is_on_any:
            with nogil:
                take_nap(&stripes.any, deadline)
        elif not self.poked and self.by_any:
            own = stripes.any
            own.word = &self.poked
            own.seen = 0
            with nogil:
                take_nap(&own, deadline)
        elif not self.poked:
            watch_word(&words[n], &self.poked, 0)
            with nogil:
                sleep_on_all(stripes, words, n + 1, deadline)
            self.by_any = stripes.by_any
        self.is_on_any = False
        self.poked = 0

    def poke(self):
        cdef Attachment att
        self.poked = 1
        futex_wake(&self.poked)
        if self.is_on_any:
            att = self.attachment()
            if att is not None:
                announce_any(&att.view)


cdef uint64_t ask_for(View *v, Stripes *stripes, object name) except? -1:
    # the name's stripe
    cdef Name parsed
    read_name(v, name, &parsed, False)
    ask(stripes, stripe_of(parsed.hashed))
    return stripe_of(parsed.hashed)


cdef bint read_seen(View *v, Stripes *stripes, object names, object seen) except -1:
    # What seen() said of the names; whether a stripe was seen to change meanwhile.
    cdef uint64_t k
    cdef uint32_t before
    for name, before in zip(names, seen):
        k = ask_for(v, stripes, name)
        if not is_in(stripes.changed, k) and stripes.seen[k] != before:
            return True
        stripes.seen[k] = before
        stripes.changed[k >> 6] &= ~(<uint64_t>1 << (k & 63))
    return False


cdef Watch new_watch(Attachment att):
    cdef Watch watch = Watch.__new__(Watch)
    watch.att = weakref.ref(att)
    return watch
