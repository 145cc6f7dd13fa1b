"""Documentation of public calls: it stands once, in the classes in Python that users know."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["adopt_docs"]


def adopt_docs(cls: type, face: type) -> None:
    """Gives the methods and properties of `cls` the documentation of `face`, the public class.

    Methods wrap those of `face` in the sense of functools.update_wrapper(), so inspect shows the
    signature and the source that stand there. Properties of compiled classes are left alone.
    """
    for name, member in vars(cls).items():
        stub: Any = getattr(face, name, None)
        if name.startswith("_") or stub is None:
            continue
        if isinstance(member, property):
            member.__doc__ = stub.__doc__
        elif callable(member):
            # not __dict__, which says of some that they are abstract
            functools.update_wrapper(getattr(cls, name), stub, updated=())
