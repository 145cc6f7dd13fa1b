# Docstrings of the classes here: they stand once, in the classes in Python that users know.

from cpython.unicode cimport PyUnicode_AsUTF8

import types
from refstore import _docs

cdef extern from "Python.h":
    ctypedef struct PyGetSetDef:
        const char *doc
    ctypedef struct PyGetSetDescrObject:
        PyGetSetDef *d_getset
    ctypedef struct DocumentedType "PyTypeObject":
        const char *tp_doc

cdef list adopted = []          # texts that the types point to


def adopt_docs(type cls not None, face, str signature=""):
    """_docs.adopt_docs() of a compiled class: its own docstring, and those of its properties.

    `signature`: what inspect shows of the class, as in "(raw)".
    """
    _docs.adopt_docs(cls, face)
    if face.__doc__ is None:        # python -OO
        return
    # CPython's own convention for classes in C
    head = f"{cls.__name__}{signature}\n--\n\n" if signature else ""
    (<DocumentedType*>cls).tp_doc = as_c_text(head + face.__doc__)
    for name, member in vars(cls).items():
        if isinstance(member, types.GetSetDescriptorType) and hasattr(face, name):
            (<PyGetSetDescrObject*>member).d_getset.doc = as_c_text(getattr(face, name).__doc__)


cdef const char *as_c_text(str text) except NULL:
    adopted.append(text)
    return PyUnicode_AsUTF8(text)


adopt_docs(Block, _buffers.Block)
adopt_docs(PinnedBuffer, _buffers.PinnedBuffer)
adopt_docs(Writer, _buffers.Writer)
adopt_docs(DirectBuffer, _buffers.PinnedBuffer)
