# The calls of a store on many objects at once.


cdef class BatchCalls(ListingCalls):
    pass


cdef class Engine(BatchCalls):
    """The native engine: what `refstore.Store` is, less what needs no speed."""
