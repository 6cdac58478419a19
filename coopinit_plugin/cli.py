"""The shell: look at a pair of networks, try it out, warm it up, push and show what came out."""

import argparse
import ast
import logging
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.first_look import inspect
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
  coopinit pilot nets.py:trial --minutes 10     is it worth it here? trial returns (make, loader, train_step)
  coopinit push init user/dcgan-init --private
"""


def _inspect(pair: str) -> None:
    G, D, loader, adapter = _made(pair, "(G, D, loader)")
    print(inspect(G, D, loader, adapter=adapter))


def _warm_start(pair: str, output_dir: str = "init", settings: Any = (), resume: bool = False) -> None:
    config = WarmStartConfig(**dict(settings))
    if not resume and any(Path(output_dir, name).exists() for name in (CHECKPOINT, CONFIG)):
        raise CoopInitError(f"{output_dir} holds a warm-up. Add --resume to go on from there, or give another -o.")
    G, D, loader, adapter = _made(pair, "(G, D, loader)")
    print(warm_start(G, D, loader, config=config, adapter=adapter, output_dir=output_dir, resume=resume))
    print(f"\nIn your script: coopinit_plugin.WarmStart.from_pretrained({output_dir!r}).load_into(G, D)")


def _pilot(pair: str, output_dir: str = "pilot", settings: Any = (), **options: Any) -> None:
    config = WarmStartConfig(**dict(settings))
    make, loader, train_step, adapter = _made(pair, "(make, loader, train_step)")
    if "iterations" not in options:
        options = {"minutes": 10.0, **options}
    print(pilot(make, loader, train_step, config=config, adapter=adapter, output_dir=output_dir, **options))
    print(f"\nThe whole report: {Path(output_dir, PAGE)}")


def _push(init: str, repo: str, **options: Any) -> None:
    print(WarmStart.from_pretrained(init).push_to_hub(repo, **options))


def _show(init: str) -> None:
    print(WarmStart.from_pretrained(init))


def _made(name: str, expected: str) -> tuple[Any, ...]:
    """What the user's function of that name returns: three things, and the adapter or ``None``."""
    place, _, function = name.rpartition(":")
    path = Path(place)
    sys.path.insert(0, str(path.parent.absolute()))
    module = path.stem if path.suffix == ".py" else place
    try:
        made = pkgutil.resolve_name(f"{module}:{function}")()
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise CoopInitError(
            f"{name} failed: {type(error).__name__}: {error} (line {where.lineno} of {where.filename}). Expected "
            f"module:function or path/file.py:function, of a function that returns {expected}."
        ) from error
    if not isinstance(made, (tuple, list)) or len(made) not in (3, 4):
        raise CoopInitError(f"{name} returned {describe(made)}; expected {expected}, or {expected[:-1]}, adapter).")
    return (*made, None)[:4]


def _setting(text: str) -> tuple[str, Any]:
    """``"lr_generator=1e-4"`` as name and value; whatever is not a Python literal is a string."""
    name, _, value = text.partition("=")
    with suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


FLAG = {"action": "store_true"}
ARGUMENTS: dict[str, dict[str, Any]] = {  # the functions have the defaults
    "pair": {"metavar": "PAIR", "help": "a function of yours that makes networks and data, see below"},
    "init": {"metavar": "DIR", "help": "folder that warm-start or save_pretrained wrote, or user/name on the Hub"},
    "repo": {"metavar": "REPO", "help": "user/name; made if it does not exist"},
    "-o": {"dest": "output_dir", "metavar": "DIR", "help": "folder to save in; init or pilot by default"},
    "--set": {
        "dest": "settings",
        "action": "append",
        "type": _setting,
        "metavar": "NAME=VALUE",
        "help": "a field of WarmStartConfig",
    },
    "--resume": {**FLAG, "help": "go on with what an interrupted run left in DIR"},
    "--minutes": {"type": float, "help": "of the whole pilot; 10 if --iterations is not given"},
    "--iterations": {"type": int, "help": "of each run, instead of --minutes"},
    "--seeds": {"type": int, "help": "how many; 5 by default"},
    "--private": {**FLAG, "help": "make a private repository"},
}
COMMANDS: dict[str, tuple[Callable[..., None], str, str]] = {  # what runs it, what it does, what it takes
    "inspect": (_inspect, "Show how G and D are called. Changes nothing.", "pair"),
    "warm-start": (_warm_start, "Warm G and D up; save weights, model card and picture.", "pair -o --set --resume"),
    "pilot": (_pilot, "Is it worth it here?", "pair -o --set --resume --minutes --iterations --seeds"),
    "push": (_push, "Push a saved warm start to the Hugging Face Hub.", "init repo --private"),
    "show": (_show, "Show a warm start.", "init"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C."""
    shared: Any = {"epilog": TEACHES, "argument_default": argparse.SUPPRESS}
    shared["formatter_class"] = argparse.RawDescriptionHelpFormatter
    parser: Any = argparse.ArgumentParser(prog="coopinit", description="A cooperative warm-up for your GAN.", **shared)
    parser.print_usage = lambda *_: None  # a mistake is told in one line, without it
    commands = parser.add_subparsers(prog="coopinit", dest="command", required=True, metavar="COMMAND")
    for name, (_, about, takes) in COMMANDS.items():
        added = commands.add_parser(name, help=about, description=about, **shared)
        added.print_usage = parser.print_usage
        for argument in takes.split():
            added.add_argument(argument, **ARGUMENTS[argument])
    asked = vars(parser.parse_args(arguments))
    command = asked.pop("command")
    run, _, takes = COMMANDS[command]
    logging.basicConfig(format="%(message)s")
    try:
        run(**asked)
        return 0
    except KeyboardInterrupt:
        going_on = "; with --resume the same command goes on from what was kept" if "--resume" in takes else ""
        status, told = 130, f"interrupted{going_on}"
    except (CoopInitError, HFValidationError, OSError) as error:  # as most errors of the Hub are
        status, told = 2, " ".join(str(error).split())
    print(f"coopinit {command}: {told}", file=sys.stderr)
    return status
