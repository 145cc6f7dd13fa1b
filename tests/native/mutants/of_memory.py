"""Mistakes about memory of a full file system, and about who goes on with a call."""

from __future__ import annotations

from tests.native.mutants.mutation import Mutation

OF_MEMORY = [
    Mutation(
        "no_memory_found",
        "a put fails on a full file system, though memory lies free in the store's own file",
        "room.pxd",
        "    cdef uint64_t given\n    cdef int got = trim_free(v, &given)\n",
        "    cdef uint64_t given = 0\n    cdef int got = 0\n",
        ("tests/processes/test_full_disk.py",),
    ),
    Mutation(
        "nothing_evicted_for_memory",
        "a cache larger than its file system refuses a put that would fit after an eviction",
        "room.pxd",
        "    got = make_room(v, nbytes, ERR_FULL, so_far, slot)\n",
        "    got = ERR_FULL\n",
        ("tests/processes/test_full_disk.py",),
    ),
    Mutation(
        "collapsed_without_bits",
        "memory that the kernel collapsed before memory ran out has no bits, and no trim finds it",
        "memory.pxd",
        "    while i < end:\n        got = commit_chunks(v, fd, i, i + HUGE_CHUNKS)\n",
        "    while i < end < i:\n        got = commit_chunks(v, fd, i, i + HUGE_CHUNKS)\n",
        ("tests/processes/test_full_disk.py",),
    ),
    Mutation(
        "fork_amid_arguments",
        "H37: a child that was forked while its parent's arguments were read continues the call",
        "put.pxd",
        '    python_ran(v, draft.life, "preparing what is put")\n',
        "",
        ("tests/processes/test_fork_amid_arguments.py",),
    ),
    Mutation(
        "end_not_copied",
        "the end of a large object is what lay there before",
        "copying.pxd",
        "        memcpy(target + done, source + done, nbytes - done);\n",
        "",
        ("tests/api/test_payload_bytes.py",),
    ),
    Mutation(
        "moved_up_from_its_start",
        "a Writer's own bytes, moved up in pieces, are overwritten before they are read",
        "writers.pxi",
        "at = left - piece if moves_up else view.len - left",
        "at = view.len - left",
        ("tests/api/test_writer_write_at.py",),
    ),
]
