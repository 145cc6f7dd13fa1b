"""Errors of modules whose library is not installed."""

from __future__ import annotations

__all__ = ["how_to_install", "missing_extra"]


def how_to_install(extra: str) -> str:
    """Say what to type: PyPI has another project of this name."""
    return f"`pip install '.[{extra}]'` in the folder of refstore's sources"


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """The error of importing `refstore.<library>` without what the extra of that name installs."""
    return ImportError(
        f"{module} needs a library that is not installed ({error}): {how_to_install(extra)}",
        name=error.name,
    )
