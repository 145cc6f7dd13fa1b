"""Errors of modules whose library is not installed."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """The error of importing `refstore.<library>` without what the extra of that name installs."""
    return ImportError(
        f"{module} needs a library that is not installed ({error}): "
        f"pip install 'refstore[{extra}]'",
        name=error.name,
    )
