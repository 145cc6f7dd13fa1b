"""Memory of the kind that stores lie in."""

import mmap
import os
import tempfile


def shared_pages(nbytes: int) -> mmap.mmap:
    """A mapping of so many bytes that the kernel has yet to find and clear."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        os.ftruncate(file.fileno(), nbytes)
        return mmap.mmap(file.fileno(), nbytes)
