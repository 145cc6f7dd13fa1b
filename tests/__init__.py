"""The tests. What they share, tests/support, is imported by plain names."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

# What a child imports first is numpy, and nothing here is computed in several threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
