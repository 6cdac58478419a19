"""The shell: look at a pair of networks, warm it up, push and show what came out."""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import HFValidationError

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.dry_run import inspect
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.checkpoint import Checkpoints
from coopinit_plugin.result.files import CONFIG
from coopinit_plugin.result.warm_start import WarmStart
from coopinit_plugin.trial.pilot import pilot
from coopinit_plugin.trial.report import PAGE
from coopinit_plugin.warmup import warm_start

PAIR = "a function of yours that makes networks and data, see below"
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
    """Run one command and return the exit status: 0, 2 for a mistake, 1 for a failure, 130 for Ctrl-C."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    asked = _parser().parse_args(line, argparse.Namespace(line=line))
    logging.basicConfig(format="%(message)s")
    try:
        asked.run(asked)
        return 0
    except KeyboardInterrupt as interrupt:
        status, told = 130, f"interrupted; {interrupt}".removesuffix("; ")
    except Exception as error:
        if asked.debug:
            raise
        mistake = isinstance(error, (CoopInitError, HFValidationError, OSError))  # as most errors of the Hub are
        status, told = (2, str(error)) if mistake else (1, f"{type(error).__name__}: {error} (--debug shows where)")
    print(f"coopinit {asked.command}: {' '.join(told.split())}", file=sys.stderr)
    return status


def _parser() -> _Parser:
    teaches: Any = {"epilog": TEACHES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = _Parser(prog="coopinit", description="A short cooperative warm-up for your GAN.", **teaches)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Callable[[Any], None], name: str, about: str) -> Callable[..., Any]:
        made = commands.add_parser(name, help=about, description=about, **teaches)
        made.set_defaults(run=run)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return made.add_argument

    command(_inspect, "inspect", "Show how G and D are called. Changes nothing.")("pair", metavar="PAIR", help=PAIR)
    add = command(_warm_start, "warm-start", "Warm G and D up; save weights, model card and picture.")
    add("pair", metavar="PAIR", help=PAIR)
    add("-o", "--output", metavar="DIR", required=True, help="folder to save in")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a field of WarmStartConfig; may be repeated")
    add("--resume", action="store_true", help="go on from the checkpoint that an interrupted warm-up left in DIR")
    add = command(_pilot, "pilot", "Is it worth it here? Your own step from three starts, at the same cost.")
    add("pair", metavar="TRIAL", help="a function that returns (make, loader, train_step), or those and an adapter")
    add("--minutes", type=float, help="of the whole pilot; 10 if --iterations is not given")
    add("--iterations", type=int, help="of each run, instead of --minutes")
    add("--seeds", type=int, default=5, help="how many; 5 by default")
    add("-o", "--output", metavar="DIR", default="pilot", help="folder for the runs and the report; pilot by default")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a field of WarmStartConfig; may be repeated")
    add("--resume", action="store_true", help="go on with the runs that DIR lacks")
    add = command(_push, "push", "Push a saved warm start to the Hugging Face Hub.")
    add("folder", metavar="DIR", help="folder that warm-start or save_pretrained wrote")
    add("repo", metavar="REPO", help="user/name; made if it does not exist")
    add("--private", action="store_true", default=None, help="make a private repository")
    add("--branch", help="push there instead of to main")
    add("--create-pr", action="store_true", default=None, help="open a pull request")
    add("--real-samples", action="store_true", help="publish the few samples of your data, too")
    add = command(_show, "show", "Show a warm start.")
    add("init", metavar="DIR_OR_REPO", help="a folder, or user/name on the Hub")
    add("--plot", metavar="PNG", help="draw the picture there: samples before and after, and the curves")
    return parser


def _inspect(asked: Any) -> None:
    G, D, loader, adapter = _pair(asked.pair)
    print(inspect(G, D, loader, adapter=adapter))


def _warm_start(asked: Any) -> None:
    config, folder = WarmStartConfig(**_settings(asked.set)), Path(asked.output)
    checkpoints = Checkpoints(folder)
    if not asked.resume and (checkpoints.exists or (folder / CONFIG).exists()):
        what = "the checkpoint of an unfinished warm-up" if checkpoints.exists else "a finished result"
        raise CoopInitError(
            f"{folder} holds {what}. Add --resume to go on from there; to begin anew, give another -o or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)  # if that fails, it had better fail before the warm-up
    G, D, loader, adapter = _pair(asked.pair)
    try:
        result = warm_start(G, D, loader, config=config, adapter=adapter, output_dir=folder, resume=asked.resume)
    except KeyboardInterrupt:
        kept = f"a checkpoint is in {folder}: {_again(asked)}" if checkpoints.exists else "nothing was kept"
        raise KeyboardInterrupt(kept) from None
    print(result)
    print(f"\nIn your script: coopinit_plugin.WarmStart.from_pretrained({str(folder)!r}).load_into(G, D)")


def _pilot(asked: Any) -> None:
    config = WarmStartConfig(**_settings(asked.set))
    make, loader, train_step, adapter = _pair(asked.pair, "(make, loader, train_step)")
    minutes = 10.0 if asked.minutes is None and asked.iterations is None else asked.minutes
    amount: Any = {"minutes": minutes, "iterations": asked.iterations, "seeds": asked.seeds}
    options: Any = {"output_dir": asked.output, "resume": asked.resume, "config": config, "adapter": adapter}
    try:
        print(pilot(make, loader, train_step, **amount, **options))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the runs that had ended are in {asked.output}: {_again(asked)}") from None
    print(f"\nThe whole report: {Path(asked.output) / PAGE}")


def _again(asked: Any) -> str:
    return "go on with " + shlex.join(["coopinit", *asked.line, *([] if asked.resume else ["--resume"])])


def _push(asked: Any) -> None:
    if not os.path.isdir(asked.folder):
        raise CoopInitError(f"{asked.folder} is no folder. Make one: coopinit warm-start PAIR -o {asked.folder}")
    keywords = {name: getattr(asked, name) for name in ("private", "branch", "create_pr", "real_samples")}
    print(WarmStart.from_pretrained(asked.folder).push_to_hub(asked.repo, **keywords))


def _show(asked: Any) -> None:
    try:
        result = WarmStart.from_pretrained(asked.init)
    except OSError as error:
        raise CoopInitError(f"{asked.init} is no folder here, and was not found on the Hub: {error}") from error
    print(result)
    if asked.plot:
        print(f"\nDrawn: {result.plot(asked.plot)}")


def _pair(name: str, expected: str = "(G, D, loader)") -> tuple[Any, ...]:
    """G, D, the loader and the adapter, if there is one, as the user's function of that name returns them."""
    place, _, function = name.rpartition(":")
    path, is_file = Path(place), place.endswith(".py")
    if not place or not function.isidentifier():
        raise CoopInitError(f"{name!r} names no function. Write module:function or path/file.py:function.")
    if is_file and not path.is_file():
        raise CoopInitError(f"{place} is no file here ({Path.cwd()}).")
    sys.path.insert(0, str(path.parent.absolute() if is_file else Path.cwd()))
    if is_file:
        sys.modules.pop(path.stem, None)  # the file is meant, not what may be loaded under the same name
    module = _theirs(f"{place} cannot be imported", importlib.import_module, path.stem if is_file else place)
    made = getattr(module, function, None)
    if not callable(made):
        raise CoopInitError(f"{function} does not exist in {place} or is no function. It is to return {expected}.")
    pair = _theirs(f"{name} failed", made)
    if not isinstance(pair, (tuple, list)) or len(pair) not in (3, 4):
        kind = type(pair).__name__ + (f" of {len(pair)}" if isinstance(pair, (tuple, list)) else "")
        raise CoopInitError(f"{name} returned a {kind}; expected {expected}, or {expected[:-1]}, adapter).")
    return (*pair, None)[:4]


def _theirs(what: str, run: Callable[..., Any], *given: Any) -> Any:
    """Run the user's own code; whatever it raises is told in one line."""
    try:
        return run(*given)
    except (Exception, SystemExit) as error:
        raise CoopInitError(f"{what}: {type(error).__name__}: {error}. With --debug you see where.") from error


def _settings(given: list[str]) -> dict[str, Any]:
    """``["lr_generator=1e-4"]`` as keywords; whatever is not a Python literal is a string."""
    settings: dict[str, Any] = {}
    for name, equals, value in (setting.partition("=") for setting in given):
        if not equals:
            raise CoopInitError(f"--set {name} sets nothing. Write --set NAME=VALUE, e.g. --set iterations=200.")
        settings[name] = value
        with suppress(ValueError, SyntaxError):
            settings[name] = ast.literal_eval(value)
    return settings
