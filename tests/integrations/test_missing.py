"""Modules beside other libraries, where those are not installed."""

from __future__ import annotations

import helpers
import pytest

MODULES = {  # and the library without which each says the extra that installs it
    "arrow": ("pyarrow", "arrow"),
    "dask": ("dask", "dask"),
    "fsspec": ("fsspec", "fsspec"),
    "joblib": ("joblib", "joblib"),
    "plasma": ("pyarrow", "arrow"),
    "polars": ("polars", "polars"),
    "ray": ("ray", "ray"),
    "torch": ("torch", "torch"),
    "zarr": ("zarr", "zarr"),
}


@pytest.mark.once("imports, and opens no store")
@pytest.mark.parametrize("module", MODULES)
def test_the_extra_is_named(module: str) -> None:
    library, extra = MODULES[module]
    told = helpers.run_clean(
        """
        import importlib
        import sys
        import refstore
        library, module = sys.argv[1:]
        assert library not in sys.modules
        sys.modules[library] = None
        try:
            importlib.import_module(f"refstore.{module}")
        except ImportError as error:
            print(error)
        """,
        library,
        module,
    )
    assert told.startswith(f"refstore.{module} needs a library that is not installed")
    assert f"`pip install '.[{extra}]'` in the folder" in told
