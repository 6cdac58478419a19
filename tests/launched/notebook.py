"""Two processes by Accelerate's notebook_launcher: ``python -m launched.notebook FOLDER CASE ...``."""

from __future__ import annotations

import socket
import sys

from launched import cases

if __name__ == "__main__":
    from accelerate import notebook_launcher

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    notebook_launcher(cases.run, tuple(sys.argv[1:]), num_processes=2, use_port=str(port))
