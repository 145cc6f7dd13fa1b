# Names as the keys of calls.

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint64_t, uint8_t

from refstore.engines.native.layout cimport ERR_EXISTS, NAME_LIMIT
from refstore.engines.native.view cimport View
from refstore.engines.native.names cimport find, Found, Name, name_hash
from refstore.engines.native.errors cimport put_error

cdef inline int read_name(View *v, object name, Name *parsed) except -1:
    cdef Py_ssize_t nbytes = 0
    if isinstance(name, str):
        try:
            parsed.utf8 = <const uint8_t*>PyUnicode_AsUTF8AndSize(name, &nbytes)
        except UnicodeEncodeError:
            nbytes = 0
    if not 0 < nbytes <= NAME_LIMIT:
        from refstore._names import encode_name
        encode_name(name)       # raises
    parsed.nbytes = <uint64_t>nbytes
    parsed.hashed = name_hash(v, parsed.utf8, parsed.nbytes)
    return 0


cdef inline int require_free_name(View *v, object text, Name *name) except -1:
    # Early, so that nothing is copied in vain; publish() looks again under the name's lock.
    cdef Found found
    if find(v, name, &found, False) == 0:
        raise put_error(v, ERR_EXISTS, 0, text)
    return 0
