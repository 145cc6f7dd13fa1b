# The hooks of fork(), for all attachments of this process: fork.pxd says what they do for one. libc
# calls them.

from refstore.engines.native.atomics cimport fetch_add_seq_cst, load_acquire
from refstore.engines.native.layout cimport MAX_ROWS
from refstore.engines.native.view cimport View
from refstore.engines.native.fork cimport (
    end_fork_in_child, end_fork_in_parent, end_fork_of_writers, end_unseen_fork_in_child,
    keep_inherited, LOSS_DESCRIPTOR, LOSS_GIL, LOSS_MEMORY, prepare_child,
)

from refstore import _children

cdef extern from "Python.h":
    ctypedef enum PyGILState_STATE:
        PyGILState_LOCKED
        PyGILState_UNLOCKED
    PyGILState_STATE PyGILState_Ensure() noexcept nogil
    PyThreadState *PyGILState_GetThisThreadState() noexcept nogil
    void PyGILState_Release(PyGILState_STATE state) noexcept nogil
    bint Py_IsInitialized() noexcept nogil
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        pass
    PyInterpreterState *PyInterpreterState_Get() noexcept nogil
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter) noexcept nogil
    PyThreadState *PyThreadState_Next(PyThreadState *thread) noexcept nogil
    int Py_AddPendingCall(int (*func)(void *) noexcept, void *arg) noexcept nogil

cdef extern from "<pthread.h>":
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil) noexcept nogil

cdef PyGILState_STATE held_over_fork
cdef bint gil_held_over_fork = False
cdef bint alone_over_fork = False                           # no other thread of Python's


cdef inline bint is_stranger() noexcept nogil:
    # whether this is a thread of C code, which has no thread state to take the GIL with
    return Py_IsInitialized() and PyGILState_GetThisThreadState() == NULL


cdef void before_fork() noexcept nogil:
    # With the GIL, no other thread of ours pins or unpins until the fork is done; see fork.pxd.
    global held_over_fork, gil_held_over_fork, alone_over_fork
    cdef View *v
    cdef PyThreadState *threads
    if is_stranger():
        fetch_add_seq_cst(&unseen_forks, 1)                              # [fork]
        return
    gil_held_over_fork = first_view != NULL and Py_IsInitialized()
    if gil_held_over_fork:
        held_over_fork = PyGILState_Ensure()
        threads = PyInterpreterState_ThreadHead(PyInterpreterState_Get())
        alone_over_fork = PyThreadState_Next(threads) == NULL
    v = first_view
    while v != NULL:
        if v.alive[0]:          # else we have no place ourselves
            keep_for_unseen(v)
            give_place(v)
        v = v.next


cdef inline void give_place(View *v) noexcept nogil:
    cdef int loss = prepare_child(v, first_writer)
    if loss:
        v.loss = loss
        keep_inherited(v, first_writer)


cdef void after_fork_in_parent() noexcept nogil:
    cdef View *v = first_view
    cdef bint is_to_warn = is_stranger()
    if not is_to_warn:
        while v != NULL:
            end_fork_in_parent(v)
            is_to_warn = is_to_warn or v.loss and not v.has_warned
            v = v.next
        end_fork_of_writers(first_writer, False)
    if is_to_warn and Py_IsInitialized():
        # during a fork no Python can run; the main thread says it when it gets to it
        Py_AddPendingCall(warn_of_children, NULL)
    if is_stranger():
        return
    if gil_held_over_fork:
        PyGILState_Release(held_over_fork)


cdef void after_fork_in_child() noexcept nogil:
    cdef View *v = first_view
    cdef bint is_unseen = is_stranger()
    while v != NULL:
        if is_unseen:
            end_unseen_fork_in_child(v)
        else:
            end_fork_in_child(v)
            v.forks_seen = load_acquire(&unseen_forks)                   # [fork]
        v = v.next
    if is_unseen:
        return
    end_fork_of_writers(first_writer, True)
    # A thread that C code forked from, without the GIL, keeps it in the child if there were others:
    # giving it up takes locks that another one may have held at the fork.
    if gil_held_over_fork and (held_over_fork == PyGILState_LOCKED or alone_over_fork):
        PyGILState_Release(held_over_fork)


pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)


cdef int warn_of_children(void *_) noexcept:
    cdef Attachment att
    for att in list(attachments.values()):
        if att.view.alive[0]:
            keep_for_unseen(&att.view)
        if att.view.loss and not att.view.has_warned:
            att.view.has_warned = True
            _children.warn(att.path, why_lost(att.view.loss))
    return 0


cdef str why_lost(int loss):
    if loss == LOSS_DESCRIPTOR:
        return _children.NO_DESCRIPTOR
    if loss == LOSS_MEMORY:
        return _children.NO_MEMORY
    return _children.NO_GIL if loss == LOSS_GIL else _children.no_row(MAX_ROWS)
