"""The ObjectRef of this installation."""

from refstore._core import ObjectRef

__all__ = ["ObjectRef"]
