# Assertions and failpoints. A release build compiles both to nothing.
#
# A failpoint is named after what has just happened. A test arms one with an action: `kill` raises SIGKILL there,
# `stop` raises SIGSTOP, so that the test scripts an interleaving with waitpid and SIGCONT and never sleeps.

cdef extern from *:
    """
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>

    #define REFSTORE_STATIC_ASSERT(cond) _Static_assert(cond, #cond)

    #ifdef REFSTORE_GCOV
    extern void __gcov_dump(void);
    #define REFSTORE_FLUSH() __gcov_dump()
    #else
    #define REFSTORE_FLUSH() ((void)0)
    #endif

    #ifdef REFSTORE_DEBUG
    #define REFSTORE_IS_DEBUG 1
    #define REFSTORE_ASSERT(cond)                                       \
        ((cond) ? (void)0                                               \
                : (fprintf(stderr, "%s:%d: refstore: %s\\n",            \
                           __FILE__, __LINE__, #cond), abort()))
    static int refstore_armed = 0, refstore_signal = 0, refstore_skip = 0;
    static inline void refstore_arm(int point, int signo, int skip) {
        refstore_armed = point; refstore_signal = signo; refstore_skip = skip;
    }
    static inline void refstore_failpoint(int point) {
        if (point == refstore_armed && refstore_skip-- == 0) {
            refstore_armed = 0;
            REFSTORE_FLUSH();
            raise(refstore_signal);
        }
    }
    #else
    #define REFSTORE_IS_DEBUG 0
    #define REFSTORE_ASSERT(cond) ((void)0)
    #define refstore_arm(point, signo, skip) ((void)(point), (void)(signo), (void)(skip))
    #define refstore_failpoint(point) ((void)0)
    #endif
    """
    const bint IS_DEBUG "REFSTORE_IS_DEBUG"
    void STATIC_ASSERT "REFSTORE_STATIC_ASSERT"(bint cond) noexcept nogil
    void ASSERT "REFSTORE_ASSERT"(bint cond) noexcept nogil
    void failpoint "refstore_failpoint"(int point) noexcept nogil
    void arm_failpoint "refstore_arm"(int point, int signo, int skip) noexcept nogil

cdef enum Failpoint:
    FP_NONE
    # pin, unpin, delete, reap
    FP_PIN_ADDED            # our cell counts, the word is not yet looked at
    FP_PIN_MARKED           # the slot's mask names our row
    FP_PIN_REMOVED          # our cell is down, the word is not yet looked at
    FP_CONDEMNED            # deleted, nobody has tried to reap
    FP_REAP_CLAIMED         # RECLAIMING is ours
    FP_MASK_CLEARED         # RECLAIMING, the mask of pinning rows is empty
    FP_WORD_FREED           # FREE again, the hint bit is not set
    # small blocks
    FP_HINT_TAKEN           # the bit is cleared, the slot not claimed
    FP_SLOT_CLAIMED         # WRITING or HELD is ours
    FP_RUN_ADOPTED          # the run's availability bit is cleared
    # space
    FP_LOCKED               # a recoverable lock is ours
    FP_PAGES_TAKEN          # out of the page map, not yet in a slot
    FP_EXTENT_SET           # the slot owns its pages
    FP_EXTENT_CLEARED       # the pages are free, the slot is still HELD
    FP_RUN_WRITTEN          # the run's record is complete, no slot belongs to it
    FP_RUN_LIVE             # the run counts, its slots are still HELD
    FP_RUN_DISSOLVED        # the run is dead, its slots are still HELD
    FP_COMMITTED            # memory is committed, the bit does not say so
    FP_SLOTS_GROWN          # the table is longer, the new slots have no hint bits
    # seal and publish
    FP_FILLED               # the payload is complete, the word says WRITING
    FP_SEALED
    FP_NAME_LOCKED
    FP_REPLACES_SET
    FP_PUBLISHING
    FP_INDEXED              # the index names the new object
    FP_OLD_CONDEMNED        # the replaced object is condemned, the new one PUBLISHING
    FP_UNINDEXED            # a deleted object's cell is cleared
    # rows and recovery
    FP_ROW_LOCKED
    FP_ROW_LIVE
    FP_ROW_PINS_ZEROED
    FP_ROW_SWEPT
    FP_ROW_FREED
    FP_MAP_REBUILT
    FP_COUNT
