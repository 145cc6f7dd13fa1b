"""The beginning of a script that takes every row of a store that nobody has, then frees them."""

ROWS = """
import fcntl, glob, os, struct

class Rows:
    def __init__(self, path, engine):
        self._is_native = engine == "native"
        if self._is_native:
            self._files = [open(path, "r+b")] * 1024
        else:
            (folder,) = glob.glob(path + ".*.locks")
            self._files = [open(f"{folder}/{row}.lock", "a+b") for row in range(256)]

    def lock(self, wanted):
        for row, file in enumerate(self._files):
            try:
                if self._is_native:
                    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
                    asked = struct.pack("hhqqi4x", kind, os.SEEK_SET, row, 1, 0)
                    fcntl.fcntl(file, 37, asked)  # F_OFD_SETLK
                else:
                    kind = fcntl.LOCK_EX | fcntl.LOCK_NB if wanted else fcntl.LOCK_UN
                    fcntl.flock(file, kind)
            except BlockingIOError:
                pass  # somebody's own
"""
