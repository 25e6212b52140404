"""``python -m PartialSegLib``: the command line, where the script ``partialseg`` is not on the path."""

import sys

from PartialSegLib.cli import main

sys.exit(main())
