"""The shell: look at a pair of networks, warm it up, push and show what came out."""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.dry_run import inspect
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.checkpoint import Checkpoints
from coopinit_plugin.result.card import table
from coopinit_plugin.result.warm_start import CONFIG, WarmStart
from coopinit_plugin.warmup import warm_start

TEACHES = """\
PAIR names a function of yours that takes nothing and returns (G, D, loader), or (G, D, loader, adapter):

  def make():  # in networks.py
      return Generator(), Discriminator(), DataLoader(dataset, batch_size=64, shuffle=True)

  coopinit inspect networks.py:make              how are G and D called? changes nothing
  coopinit warm-start networks.py:make -o init   warm up, save weights, card and picture in init/
  coopinit show init                             what came out
  coopinit push init user/dcgan-init             share it

and in your training script, before the adversarial loop:

  coopinit_plugin.WarmStart.from_pretrained("init").load_into(G, D)
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake, 1 for a failure, 130 for Ctrl-C."""
    asked = _parser().parse_args(arguments)
    asked.line = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s")
    try:
        asked.run(asked)
    except KeyboardInterrupt as interrupt:
        return _told(asked.command, f"interrupted; {interrupt}" if str(interrupt) else "interrupted", 130)
    except Exception as error:
        if asked.debug:
            raise
        if isinstance(error, (CoopInitError, HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError)):
            return _told(asked.command, str(error), 2)
        return _told(asked.command, f"{type(error).__name__}: {error} (--debug shows where)", 1)
    return 0


def _told(command: str, message: str, status: int) -> int:
    print(f"coopinit {command}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _parser() -> _Parser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "A short cooperative warm-up for the generator and discriminator you have."
    parser = _Parser(prog="coopinit", description=about, epilog=TEACHES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], about: str, example: str) -> Callable[..., Any]:
        epilog = f"example:\n  coopinit {name} {example}"
        made = commands.add_parser(name, help=about, description=about, epilog=epilog, formatter_class=raw)
        made.set_defaults(run=run)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return made.add_argument

    pair = "module:function or path/file.py:function that returns (G, D, loader)"
    add = command("inspect", _inspect, "Show how G and D are called. Changes nothing.", "nets.py:make")
    add("pair", metavar="PAIR", help=pair)
    about = "Warm G and D up; save weights, model card and picture."
    add = command("warm-start", _warm_start, about, "nets.py:make -o init --set handover=hinge --set iterations=200")
    add("pair", metavar="PAIR", help=pair)
    add("-o", "--output", metavar="DIR", required=True, help="folder to save in")
    about = "a field of WarmStartConfig; may be repeated"
    add("--set", metavar="NAME=VALUE", action="append", default=[], dest="settings", help=about)
    add("--resume", action="store_true", help="go on from the checkpoint that an interrupted warm-up left in DIR")
    add = command("push", _push, "Push a saved warm start to the Hugging Face Hub.", "init user/dcgan-init --private")
    add("folder", metavar="DIR", help="folder that warm-start or save_pretrained wrote")
    add("repo", metavar="REPO", help="user/name; made if it does not exist")
    add("--private", action="store_true", default=None, help="make a private repository")
    add("--branch", help="push there instead of to main")
    add("--create-pr", action="store_true", default=None, help="open a pull request")
    add("--real-samples", action="store_true", help="publish the few samples of your data, too")
    add = command("show", _show, "Show a warm start.", "init --plot story.png")
    add("init", metavar="DIR_OR_REPO", help="a folder, or user/name on the Hub")
    add("--plot", metavar="PNG", help="draw the picture there: samples before and after, and the curves")
    return parser


def _inspect(asked: Any) -> None:
    G, D, loader, adapter = _pair(asked.pair)
    print(inspect(G, D, loader, adapter=adapter))


def _warm_start(asked: Any) -> None:
    config = WarmStartConfig(**_settings(asked.settings))
    folder = Path(asked.output)
    checkpoints = Checkpoints(folder)
    what = "the checkpoint of an unfinished warm-up" if checkpoints.exists else "a finished result"
    if not asked.resume and (checkpoints.exists or (folder / CONFIG).exists()):
        raise CoopInitError(
            f"{folder} holds {what}. Add --resume to go on from there; to begin anew, give another -o or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)  # if that fails, it had better fail before the warm-up
    G, D, loader, adapter = _pair(asked.pair)
    try:
        result = warm_start(G, D, loader, config=config, adapter=adapter, output_dir=folder, resume=asked.resume)
    except KeyboardInterrupt:
        again = shlex.join(["coopinit", *asked.line, *([] if asked.resume else ["--resume"])])
        kept = f"a checkpoint is in {folder}: go on with {again}" if checkpoints.exists else "nothing was kept"
        raise KeyboardInterrupt(kept) from None
    print(table(result))
    print(f"\nSaved in {folder}. In your script, before the adversarial loop:\n")
    print(f"  coopinit_plugin.WarmStart.from_pretrained({str(folder)!r}).load_into(G, D)")


def _push(asked: Any) -> None:
    folder = asked.folder
    if not os.path.isdir(folder):
        raise CoopInitError(f"{folder} is no folder. Make one: coopinit warm-start nets.py:make -o {folder}")
    keywords = {name: getattr(asked, name) for name in ("private", "branch", "create_pr", "real_samples")}
    print(WarmStart.from_pretrained(folder).push_to_hub(asked.repo, **keywords))


def _show(asked: Any) -> None:
    try:
        result = WarmStart.from_pretrained(asked.init)
    except (HfHubHTTPError, EntryNotFoundError) as error:
        raise CoopInitError(f"{asked.init} is no folder here, and was not found on the Hub: {error}") from error
    print(table(result))
    if asked.plot:
        print(f"\nDrawn: {result.plot(asked.plot)}")


def _pair(name: str) -> tuple[Any, Any, Any, Adapter | None]:
    """Import the function and call it, or say what is missing, what failed, or what came back instead."""
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function.isidentifier():
        raise CoopInitError(f"{name!r} names no function. Write module:function or path/file.py:function.")
    with _theirs(f"{place} cannot be imported"):
        made = getattr(_module(place), function, None)
    if not callable(made):
        near = "is no function" if made is not None else "does not exist"
        raise CoopInitError(f"{function} {near} in {place}. It is to take nothing and return (G, D, loader).")
    with _theirs(f"{name} failed"):
        pair = made()
    count = len(pair) if isinstance(pair, (tuple, list)) else None
    if count not in (3, 4):
        kind = type(pair).__name__ + ("" if count is None else f" of {count}")
        raise CoopInitError(f"{name} returned a {kind}; expected (G, D, loader), or (G, D, loader, adapter).")
    G, D, loader, *adapter = pair
    return G, D, loader, adapter[0] if adapter else None


def _module(place: str) -> ModuleType:
    path = Path(place).absolute()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise CoopInitError(f"{place} is no file here ({Path.cwd()}).")
    if not is_file and not re.fullmatch(r"\w+(\.\w+)*", place):
        raise CoopInitError(f"{place!r} is neither a Python file nor a module's name.")
    sys.path.insert(0, str(path.parent) if is_file else os.getcwd())
    if not is_file:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name != place:
                raise
            raise CoopInitError(f"There is no module {place} here ({Path.cwd()}) or among those installed.") from error
    name = path.stem if path.stem not in sys.modules else f"user_{path.stem}"
    module = sys.modules[name] = ModuleType(name)  # where a DataLoader's workers find its classes
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), path, "exec"), vars(module))
    return module


@contextmanager
def _theirs(what: str) -> Iterator[None]:
    """Whatever the user's own code raises, in one line."""
    try:
        yield
    except CoopInitError:
        raise
    except (Exception, SystemExit) as error:
        raise CoopInitError(f"{what}: {type(error).__name__}: {error}. With --debug you see where.") from error


def _settings(given: list[str]) -> dict[str, Any]:
    """``["lr_generator=1e-4"]`` as keywords; whatever is not a Python literal is a string."""
    settings: dict[str, Any] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise CoopInitError(f"--set {setting} sets nothing. Write --set NAME=VALUE, e.g. --set iterations=200.")
        settings[name] = value
        with suppress(ValueError, SyntaxError):
            settings[name] = ast.literal_eval(value)
    return settings
