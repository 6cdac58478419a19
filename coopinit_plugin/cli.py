"""The shell: look at a pair of networks, warm it up, push and show what came out."""

from __future__ import annotations

import argparse
import ast
import logging
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import HFValidationError

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.dry_run import inspect
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.checkpoint import NAME as CHECKPOINT
from coopinit_plugin.nests import describe
from coopinit_plugin.result.warm_start import CONFIG, WarmStart
from coopinit_plugin.trial.pilot import pilot
from coopinit_plugin.trial.report import PAGE
from coopinit_plugin.warmup import warm_start

TEACHES = """\
PAIR is module:function or path/file.py:function, of yours, that returns (G, D, loader) or (G, D, loader, adapter).

  coopinit inspect nets.py:make                 how are G and D called? changes nothing
  coopinit warm-start nets.py:make -o init --set handover=hinge
  coopinit show init                            what came out
  coopinit pilot nets.py:trial --minutes 10     is it worth it? trial returns (make, loader, train_step)
  coopinit push init user/dcgan-init --private
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C."""
    asked = vars(_parser().parse_args(arguments))
    run, command, debug = asked.pop("run"), asked.pop("command"), asked.pop("debug")
    logging.basicConfig(format="%(message)s")
    try:
        run(**asked)
        return 0
    except KeyboardInterrupt:
        going_on = "; with --resume the same command goes on from what was kept" if "resume" in asked else ""
        status, told = 130, f"interrupted{going_on}"
    except (CoopInitError, HFValidationError, OSError) as error:  # as most errors of the Hub are
        if debug:
            raise
        status, told = 2, " ".join(str(error).split())
    print(f"coopinit {command}: {told}", file=sys.stderr)
    return status


def _parser() -> _Parser:
    teaches: Any = {"epilog": TEACHES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = _Parser(prog="coopinit", description="A short cooperative warm-up for your GAN.", **teaches)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Callable[..., None], name: str, about: str) -> Callable[..., Any]:
        made = commands.add_parser(name, help=about, description=about, **teaches)
        made.set_defaults(run=run)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return made.add_argument

    pair: Any = {"metavar": "PAIR", "help": "a function of yours that makes networks and data, see below"}
    folder: Any = {"dest": "output_dir", "metavar": "DIR"}
    fields: Any = {"dest": "settings", "metavar": "NAME=VALUE", "action": "append", "default": [], "type": _setting}
    fields["help"] = "a field of WarmStartConfig; may be repeated"
    command(_inspect, "inspect", "Show how G and D are called. Changes nothing.")("pair", **pair)
    add = command(_warm_start, "warm-start", "Warm G and D up; save weights, model card and picture.")
    add("pair", **pair)
    add("-o", "--output", **folder, required=True, help="folder to save in")
    add("--set", **fields)
    add("--resume", action="store_true", help="go on from the checkpoint that an interrupted warm-up left in DIR")
    add = command(_pilot, "pilot", "Is it worth it here? Your own step from three starts, at the same cost.")
    add("pair", metavar="TRIAL", help="a function that returns (make, loader, train_step), or those and an adapter")
    add("--minutes", type=float, help="of the whole pilot; 10 if --iterations is not given")
    add("--iterations", type=int, help="of each run, instead of --minutes")
    add("--seeds", type=int, default=5, help="how many; 5 by default")
    add("-o", "--output", **folder, default="pilot", help="folder for the runs and the report; pilot by default")
    add("--set", **fields)
    add("--resume", action="store_true", help="go on with the runs that DIR lacks")
    add = command(_push, "push", "Push a saved warm start to the Hugging Face Hub.")
    add("init", metavar="DIR", help="folder that warm-start or save_pretrained wrote")
    add("repo", metavar="REPO", help="user/name; made if it does not exist")
    add("--private", action="store_true", default=None, help="make a private repository")
    add("--real-samples", action="store_true", help="publish the few samples of your data, too")
    add = command(_show, "show", "Show a warm start.")
    add("init", metavar="DIR_OR_REPO", help="a folder, or user/name on the Hub")
    add("--plot", metavar="PNG", help="draw the picture there: samples before and after, and the curves")
    return parser


def _inspect(pair: str) -> None:
    G, D, loader, adapter = _made(pair)
    print(inspect(G, D, loader, adapter=adapter))


def _warm_start(pair: str, settings: list[tuple[str, Any]], output_dir: str, resume: bool) -> None:
    config = WarmStartConfig(**dict(settings))
    if not resume and any(Path(output_dir, name).exists() for name in (CHECKPOINT, CONFIG)):
        raise CoopInitError(f"{output_dir} holds a warm-up. Add --resume to go on from there, or give another -o.")
    G, D, loader, adapter = _made(pair)
    print(warm_start(G, D, loader, config=config, adapter=adapter, output_dir=output_dir, resume=resume))
    print(f"\nIn your script: coopinit_plugin.WarmStart.from_pretrained({output_dir!r}).load_into(G, D)")


def _pilot(pair: str, settings: list[tuple[str, Any]], **options: Any) -> None:
    config = WarmStartConfig(**dict(settings))
    make, loader, train_step, adapter = _made(pair, "(make, loader, train_step)")
    if options["minutes"] is None and options["iterations"] is None:
        options["minutes"] = 10.0
    print(pilot(make, loader, train_step, config=config, adapter=adapter, **options))
    print(f"\nThe whole report: {Path(options['output_dir'], PAGE)}")


def _push(init: str, repo: str, **options: Any) -> None:
    print(WarmStart.from_pretrained(init).push_to_hub(repo, **options))


def _show(init: str, plot: str | None) -> None:
    result = WarmStart.from_pretrained(init)
    print(result)
    if plot:
        print(f"\nDrawn: {result.plot(plot)}")


def _made(name: str, expected: str = "(G, D, loader)") -> tuple[Any, ...]:
    """What the user's function of that name returns: three things, and the adapter or ``None``."""
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        folder, place = Path(place).parent.absolute(), Path(place).stem
        sys.modules.pop(place, None)  # the file is meant, not what may be loaded under the same name
    else:
        folder = Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        made = pkgutil.resolve_name(f"{place}:{function}")()
    except (Exception, SystemExit) as error:
        raise CoopInitError(
            f"{name} failed: {type(error).__name__}: {error}. Expected module:function or path/file.py:function, of a "
            f"function that returns {expected}. With --debug you see where."
        ) from error
    if not isinstance(made, (tuple, list)) or len(made) not in (3, 4):
        raise CoopInitError(f"{name} returned {describe(made)}; expected {expected}, or {expected[:-1]}, adapter).")
    return (*made, None)[:4]


def _setting(text: str) -> tuple[str, Any]:
    """``"lr_generator=1e-4"`` as name and value; whatever is not a Python literal is a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} sets nothing. Write --set NAME=VALUE, e.g. --set iterations=200.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
