"""``python -m coopinit_plugin``: the same as the command ``coopinit``."""

from coopinit_plugin.cli import main

raise SystemExit(main())
