"""Where rows and name locks lie in the file of a native store, to read and to damage them."""

from __future__ import annotations

import ctypes

from tests.fuzz import layout

PAGE = 4096
ROWS = layout.constants()["MAX_ROWS"]
ROW_NBYTES = ctypes.sizeof(layout.structs()["Row"])  # its state and its pid come first
ROWS_AT = 2 * PAGE
LOCK_NBYTES = ctypes.sizeof(layout.structs()["NameLock"])
LOCKS_AT = ROWS_AT + ROWS * ROW_NBYTES
LOCKS_END = LOCKS_AT + layout.constants()["NAME_LOCKS"] * LOCK_NBYTES
SOURCE = f"""
    ROWS_AT, ROW_NBYTES, ROWS = {ROWS_AT}, {ROW_NBYTES}, {ROWS}
    LOCKS_AT, LOCKS_END, LOCK_NBYTES = {LOCKS_AT}, {LOCKS_END}, {LOCK_NBYTES}
"""
