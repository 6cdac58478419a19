"""The study's commands: ``python -m examples.study run PART`` and ``python -m examples.study report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.study.plans import PARTS, plans
from examples.study.runner import run_all

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the runs of a part that have no row yet")
    run.add_argument("part", choices=[*PARTS, "all"])
    run.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    run.add_argument("--seeds", type=int, nargs="+", help="instead of the part's own")
    run.add_argument("--only", default="", metavar="TEXT", help='runs whose "PART SETTING ARM SEED" holds it')
    run.add_argument("--quick", action="store_true", help="tiny runs: only to see that everything works")
    for command in (run,):
        command.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="the tables' folder")
    args = parser.parse_args()

    if args.command == "run":
        parts = list(PARTS) if args.part == "all" else [args.part]
        todo = [plan for part in parts for plan in plans(part, args.seeds)]
        run_all([plan for plan in todo if args.only in str(plan)], args.results, args.jobs, "full")


if __name__ == "__main__":
    main()
