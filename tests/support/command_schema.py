"""JSON that commands print, against docs/commands.schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

FILE = Path(__file__).parents[2] / "docs" / "commands.schema.json"


def schema() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text()))


def require(printed: object, command: str) -> None:
    """Validate against the definition of a command."""
    whole = schema() | {"$ref": f"#/$defs/{command}"}
    jsonschema.Draft202012Validator(whole).validate(printed)
