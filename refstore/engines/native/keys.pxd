# Names as the keys of calls.

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint64_t, uint8_t

from .layout cimport ERR_EXISTS, NAME_LIMIT
from .view cimport View
from .names cimport find, Found, name_hash
from .errors cimport put_error

cdef struct Name:
    const char *utf8
    Py_ssize_t nbytes
    uint64_t hashed             # 0: no name


cdef inline int read_name(View *v, object name, Name *parsed) except -1:
    if isinstance(name, str):
        try:
            parsed.utf8 = PyUnicode_AsUTF8AndSize(name, &parsed.nbytes)
        except UnicodeEncodeError:
            parsed.nbytes = 0
    if not isinstance(name, str) or not 0 < parsed.nbytes <= NAME_LIMIT:
        from refstore._names import encode_name
        encode_name(name)       # raises
    parsed.hashed = name_hash(v, <const uint8_t*>parsed.utf8, <uint64_t>parsed.nbytes)
    return 0


cdef inline int find_named(View *v, Name *name, Found *found, bint pins) noexcept nogil:
    return find(v, name.hashed, <const uint8_t*>name.utf8, <uint64_t>name.nbytes, found, pins)


cdef inline int require_free_name(View *v, object text, Name *name) except -1:
    # Early, so that nothing is copied in vain; publish() looks again under the name's lock.
    cdef Found found
    if find_named(v, name, &found, False) == 0:
        raise put_error(v, ERR_EXISTS, 0, text)
    return 0
