"""The memory of a process and of all that it has started."""

from pathlib import Path

_KIB = 1024


def footprint(pid: int) -> int:
    """Bytes: private pages, and the share of each shared one."""
    return sum(_proportional(member) for member in _family(pid))


def _family(pid: int) -> set[int]:
    """The process and its descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    # Program files are left out: other processes that map them would change the share.
    wanted = ("Pss_Anon:", "Pss_Shmem:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) * _KIB
