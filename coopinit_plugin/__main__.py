"""``python -m coopinit_plugin``: the same as the command ``coopinit``."""

import sys

from coopinit_plugin.cli import main

sys.exit(main())
