"""Two processes by Accelerate's debug_launcher, which makes their process group."""

from __future__ import annotations

import sys

from launched import cases

if __name__ == "__main__":
    from accelerate import debug_launcher

    debug_launcher(cases.run, tuple(sys.argv[1:]), num_processes=2)
