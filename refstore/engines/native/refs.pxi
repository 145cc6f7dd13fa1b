# ObjectRef: the address of one object. Without the core, refstore/_refs.py has the same in Python.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from refstore import _messages

cdef object restore_ref = None      # what pickles name; it is not of this module, see _unpickle.py


def reduce_refs_by(function):
    """Makes pickles of refs call `function`."""
    global restore_ref
    restore_ref = function


@cython.final
@cython.freelist(1024)
cdef class ObjectRef:
    cdef uint32_t slot
    cdef bint is_set            # for ever
    cdef uint64_t generation
    cdef uint64_t tag
    cdef object __weakref__

    def __init__(self, raw):
        cdef const uint8_t *b
        if not isinstance(raw, bytes):
            raise _messages.wrong_ref_type(raw)
        if PyBytes_GET_SIZE(raw) != 16:
            raise _messages.wrong_ref_size(len(raw))
        if self.is_set:
            return
        b = <const uint8_t*>PyBytes_AS_STRING(raw)
        memcpy(&self.slot, b, 4)
        memcpy(&self.generation, b + 4, 6)
        memcpy(&self.tag, b + 10, 6)
        self.is_set = True

    @staticmethod
    def from_hex(text):
        if not isinstance(text, str):
            raise _messages.wrong_hex_type(text)
        return ObjectRef(bytes.fromhex(text))

    def __bytes__(self):
        cdef uint8_t[16] b
        memcpy(b, &self.slot, 4)
        memcpy(b + 4, &self.generation, 6)
        memcpy(b + 10, &self.tag, 6)
        return PyBytes_FromStringAndSize(<char*>b, 16)

    def hex(self):
        return self.__bytes__().hex()

    def __eq__(self, other):
        if type(other) is not ObjectRef:
            return NotImplemented
        return (self.slot == (<ObjectRef>other).slot
                and self.generation == (<ObjectRef>other).generation
                and self.tag == (<ObjectRef>other).tag)

    def __hash__(self):
        if not self.is_set:     # it may be yet
            raise _messages.blank_ref()
        return hash((self.slot, self.generation, self.tag))

    def __repr__(self):
        return f"ObjectRef.from_hex('{self.hex()}')"

    def __reduce__(self):
        return restore_ref, (self.__bytes__(),)


cdef inline void set_ref(ObjectRef ref, uint64_t tag, uint64_t slot, uint64_t generation) noexcept:
    ref.slot = <uint32_t>slot
    ref.generation = generation
    ref.tag = tag
    ref.is_set = True


cdef inline ObjectRef make_ref(uint64_t tag, uint64_t slot, uint64_t generation):
    cdef ObjectRef ref = <ObjectRef>ObjectRef.__new__(ObjectRef)
    set_ref(ref, tag, slot, generation)
    return ref
