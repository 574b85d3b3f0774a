"""``python -m opmerge.cli``."""

import sys

from opmerge.cli import main

sys.exit(main())
