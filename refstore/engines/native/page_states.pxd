# What each page of the data is used for, for pictures of a store. The order of the numbers is not
# that of strength, by which one of several blocks gives a page its state.

from libc.stdint cimport uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_acquire, load_relaxed
from refstore.engines.native.layout cimport CONDEMNED, PAGE, RECLAIMING, Run, Slot
from refstore.engines.native.view cimport (
    block_nbytes, extent_first, extent_pages, run_is_there, runs_used, slots_used, View,
)
from refstore.engines.native.slots cimport pinned_by, word_state
from refstore.engines.native.stats cimport holds_block, is_visible

cdef enum PageState:
    PAGE_NEVER_USED
    PAGE_FREE
    PAGE_LIVE
    PAGE_PINNED                 # live, too
    PAGE_PENDING_DELETE
    PAGE_WRITTEN                # or claimed
    PAGE_OF_RUN                 # cut into blocks, none of which has an object there


cdef inline int strength(unsigned char state) noexcept nogil:
    # of several blocks on one page, the state of the highest rank is shown
    if state == PAGE_OF_RUN:
        return 2
    return state if state <= PAGE_FREE else 3 if state == PAGE_LIVE else 6 if state == PAGE_PINNED \
        else state


cdef inline unsigned char page_state_of(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # of the pages of a slot's block
    if not holds_block(word):
        return PAGE_FREE
    if is_visible(v, i, word):
        return PAGE_PINNED if pinned_by(v, i) else PAGE_LIVE
    if word_state(word) == CONDEMNED or word_state(word) == RECLAIMING:
        return PAGE_PENDING_DELETE
    return PAGE_WRITTEN


cdef inline void paint(View *v, unsigned char *states, uint64_t first, uint64_t end,
                       unsigned char state) noexcept nogil:
    cdef uint64_t page
    for page in range(first, min(end, v.g.pages)):
        if strength(states[page]) < strength(state):
            states[page] = state


cdef inline void fill_page_states(View *v, unsigned char *states) noexcept nogil:
    # `states`: one PageState for each page of the data
    cdef:
        uint64_t i, at, run_id, word
        uint64_t top = min(load_relaxed(&v.pool.top), v.g.pages)  # relaxed: a report
        unsigned char state
        Slot *slot
        Run *run
    memset(states, PAGE_FREE, top)
    memset(states + top, PAGE_NEVER_USED, v.g.pages - top)
    for i in range(runs_used(v)):
        run = &v.runs[i]
        if load_acquire(&run.live):                                      # [run]
            paint(v, states, run.first, run.first + <uint64_t>run.pages, PAGE_OF_RUN)
    for i in range(slots_used(v)):
        slot = &v.slots[i]
        word = load_acquire(&slot.word)                                  # [seal]
        state = page_state_of(v, i, word)
        run_id = slot.run
        if slot.extent:
            paint(v, states, extent_first(slot.extent),
                  extent_first(slot.extent) + extent_pages(slot.extent), state)
        elif state != PAGE_FREE and run_is_there(v, run_id):
            at = v.runs[run_id - 1].first * <uint64_t>PAGE + slot.block * block_nbytes(slot)
            paint(v, states, at // PAGE, (at + block_nbytes(slot) + PAGE - 1) // PAGE, state)
