"""Names of actors, stores and objects of a session."""

from __future__ import annotations

import hashlib
import re

__all__ = [
    "ASKED",
    "LATEST",
    "NAMESPACE",
    "REPLICA",
    "agent_name",
    "asked_name",
    "checked_session",
    "latest_name",
    "replica_name",
    "session_name",
    "source_of",
    "store_name",
    "stores_prefix",
]

NAMESPACE = "refstore"  # Ray's, of the actors
LATEST = "ray/latest/"
REPLICA = "ray/replica/"
ASKED = "ray/asked/"
SESSION = re.compile(r"[A-Za-z0-9_.]{1,64}")


def checked_session(session: str) -> str:
    """Errors: TypeError, ValueError."""
    if not isinstance(session, str):
        raise TypeError(f"a session's name is a str, not {type(session).__name__}")
    if not SESSION.fullmatch(session):
        raise ValueError(
            f"{session!r} cannot name a session: it takes 1 to 64 letters, digits, '_' and '.'"
        )
    return session


def session_name(session: str) -> str:
    return f"session/{session}"


def agent_name(session: str, node: str) -> str:
    return f"agent/{session}/{node}"


def stores_prefix(session: str, address: str) -> str:
    """Prefix of names of a session's stores: clusters that share a host have one each."""
    return f"ray-{session}-{hashlib.sha256(address.encode()).hexdigest()[:8]}-"


def store_name(prefix: str, token: str, node: str) -> str:
    """`token`: of the session, which tells it from earlier ones of the same name."""
    return f"{prefix}{token}-{node}"


def replica_name(node: str, ref: str) -> str:
    return f"{REPLICA}{node}/{ref}"


def asked_name(replica: str) -> str:
    """Name of the claim of the process that asks for a replica."""
    return ASKED + replica.removeprefix(REPLICA)


def source_of(name: str | None) -> tuple[str, str] | None:
    """The node and the ref of what the object of this name is a replica of."""
    if name is None or not name.startswith(REPLICA):
        return None
    node, _, ref = name.removeprefix(REPLICA).partition("/")
    return node, ref


def latest_name(name: str) -> str:
    """Errors: TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    longest = 255 - len(LATEST)
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= longest:
        raise ValueError(f"the name of a version has 1 to {longest} bytes in UTF-8: {name[:40]!r}")
    return LATEST + name
