"""`python -m refstore` is the `refstore` command."""

import sys

from refstore.cli import main

sys.exit(main())
