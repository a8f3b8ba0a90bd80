"""``python -m lowtide`` is ``lowtide``."""

import sys

from lowtide.cli import main

sys.exit(main())
