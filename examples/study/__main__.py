"""The study's commands: ``python -m examples.study run PART`` and ``python -m examples.study report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.study.plans import PARTS, a_taste, plans
from examples.study.report import write
from examples.study.runner import run_all

FOLDER = Path(__file__).parent
QUICK_FOLDER = Path("runs/study")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the runs of a part that have no row yet")
    run.add_argument("part", choices=[*PARTS, "all"])
    run.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    run.add_argument("--seeds", type=int, nargs="+", help="instead of the part's own")
    run.add_argument("--only", default="", metavar="TEXT", help='runs whose "PART SETTING ARM SEED" holds it')
    run.add_argument(
        "--quick",
        action="store_true",
        help=f"tiny runs and their report, in {QUICK_FOLDER}: only to see that all works",
    )
    report = commands.add_parser("report", help="RESULTS.md and the pictures, from the tables")
    for command in (run, report):
        command.add_argument("--folder", type=Path, metavar="DIR", help="of RESULTS.md and results/")
    args = parser.parse_args(arguments)

    quick = args.command == "run" and args.quick
    folder = args.folder or (QUICK_FOLDER if quick else FOLDER)
    if args.command == "run":
        parts = list(PARTS) if args.part == "all" else [args.part]
        todo = a_taste(parts) if quick else [plan for part in parts for plan in plans(part, args.seeds)]
        todo = [plan for plan in todo if args.only in str(plan)]
        if not todo:
            parser.error(f"no run's name holds {args.only!r}; they look like this: {plans(parts[0])[0]}")
        run_all(todo, folder / "results", args.jobs, "quick" if quick else "full")
    if quick or args.command == "report":
        write(folder / "results", folder / "RESULTS.md")
        print(f"Written: {folder / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
