# Where Python may run during an operation: a signal handler, a finalizer, a method of what
# is stored, another thread while the GIL is given up. It may raise, end the process, use this very
# store or close it, and it may fork: a child that comes back from there would go on with what its
# parent is at, in a slot that is the parent's.
#
# So each such stretch ends with `python_ran`, which has a name. In a debug build a test may let a
# function run there.

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t

from refstore.engines.native.debug cimport IS_DEBUG
from refstore.engines.native.view cimport View

cdef extern from *:
    """
    #ifdef REFSTORE_DEBUG
    static PyObject *refstore_visitor = NULL;
    static int refstore_visit(const char *where) {
        PyObject *visitor = refstore_visitor, *got;
        if (visitor == NULL)
            return 0;
        Py_INCREF(visitor);
        got = PyObject_CallFunction(visitor, "s", where);
        Py_DECREF(visitor);
        Py_XDECREF(got);
        return got == NULL ? -1 : 0;
    }
    static void refstore_set_visitor(PyObject *visitor) {
        PyObject *before = refstore_visitor;
        Py_XINCREF(visitor);
        refstore_visitor = visitor;
        Py_XDECREF(before);
    }
    #else
    #define refstore_visit(where) ((void)(where), 0)
    #define refstore_set_visitor(visitor) ((void)(visitor))
    #endif
    """
    int visit "refstore_visit"(const char *where) except -1
    void set_visitor "refstore_set_visitor"(void *visitor)     # a Python object, or NULL


cdef inline bint is_same_process(View *v, uint64_t life) noexcept nogil:
    # whether this is the process that it was when `life` was its life
    return v.alive[0] != 0 and v.life == life


cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefault(const char *s)


cdef inline str path_of(View *v):
    return PyUnicode_DecodeFSDefault(v.path)


cdef inline object not_the_same(str path):
    from refstore import _messages
    from refstore._errors import RefstoreError
    return RefstoreError(_messages.forked_amid(path))


cdef inline int python_ran(View *v, uint64_t life, const char *where) except -1:
    # `life`: ours when the operation began. RefstoreError in a child that was forked since.
    if IS_DEBUG:
        visit(where)
    if not is_same_process(v, life):
        raise not_the_same(path_of(v))
    return 0


cdef inline int look_for_signals(View *v, uint64_t life, const char *where) except -1:
    # Before a point of no return, and during what takes long: what a handler raises comes through
    # here.
    PyErr_CheckSignals()
    return python_ran(v, life, where)
