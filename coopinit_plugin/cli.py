"""The shell: look at a pair of networks, warm it up, push and show what came out."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.dry_run import inspect
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.result.comparison import table
from coopinit_plugin.result.warm_start import WarmStart
from coopinit_plugin.warmup import warm_start

TEACHES = """\
PAIR names a function of yours that takes nothing and returns (G, D, loader), or (G, D, loader, adapter):

  # networks.py
  def make():
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
    """Run one command.

    Args:
        arguments: Of the command line, without the program's name; the process's own, where left out.

    Returns:
        The exit status: 0; 2 for a mistake and 1 for a failure, which one line on standard error explains.
    """
    asked = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        asked.run(asked)
    except (CoopInitError, HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        if asked.debug:
            raise
        return _told(asked.command, str(error), 2)
    except Exception as error:  # no one's mistake here: a connection, or a defect
        if asked.debug:
            raise
        return _told(asked.command, f"{type(error).__name__}: {error} (--debug shows where)", 1)
    except KeyboardInterrupt:
        return _told(asked.command, "interrupted", 130)
    return 0


def _told(command: str, message: str, status: int) -> int:
    print(f"coopinit {command}: {_one_line(message)}", file=sys.stderr)
    return status


def _parser() -> _Parser:
    parser = _Parser(
        prog="coopinit",
        description="A short cooperative warm-up for the generator and discriminator you have.",
        epilog=TEACHES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], None], about: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return made

    pair = "module:function or path/file.py:function that returns (G, D, loader)"
    made = command(
        "inspect", _inspect, "Show how G and D are called. Changes nothing.", "coopinit inspect nets.py:make"
    )
    made.add_argument("pair", metavar="PAIR", help=pair)

    made = command(
        "warm-start",
        _warm_start,
        "Warm G and D up; save weights, model card and picture.",
        "coopinit warm-start nets.py:make -o init --set handover=hinge --set iterations=200",
    )
    made.add_argument("pair", metavar="PAIR", help=pair)
    made.add_argument("-o", "--output", metavar="DIR", required=True, help="folder to save in")
    made.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="a field of WarmStartConfig; may be repeated",
    )

    made = command(
        "push",
        _push,
        "Push a saved warm start to the Hugging Face Hub.",
        "coopinit push init user/dcgan-init --private",
    )
    made.add_argument("folder", metavar="DIR", help="folder that warm-start or save_pretrained wrote")
    made.add_argument("repo", metavar="REPO", help="user/name; made where it does not exist")
    made.add_argument("--private", action="store_true", default=None, help="make a private repository")
    made.add_argument("--branch", help="push there instead of to main")
    made.add_argument("--create-pr", action="store_true", help="open a pull request")
    made.add_argument("--real-samples", action="store_true", help="publish the few samples of your data, too")

    made = command("show", _show, "Show a warm start, or compare two.", "coopinit show init user/dcgan-init")
    made.add_argument("init", metavar="DIR_OR_REPO", help="a folder, or user/name on the Hub")
    made.add_argument("other", metavar="OTHER", nargs="?", help="a second one to compare it with")
    made.add_argument("--plot", metavar="PNG", help="draw the picture of the first one there")
    return parser


def _inspect(asked: Any) -> None:
    G, D, loader, adapter = _pair(asked.pair)
    print(inspect(G, D, loader, adapter=adapter))


def _warm_start(asked: Any) -> None:
    config = WarmStartConfig(**_settings(asked.settings))
    G, D, loader, adapter = _pair(asked.pair)
    Path(asked.output).mkdir(parents=True, exist_ok=True)  # where that fails, it had better fail before the warm-up
    result = warm_start(G, D, loader, config=config, adapter=adapter, output_dir=asked.output)
    print(table([asked.output], [result]))
    print(f"\nSaved in {asked.output}. In your script, before the adversarial loop:\n")
    print(f"  coopinit_plugin.WarmStart.from_pretrained({asked.output!r}).load_into(G, D)")


def _push(asked: Any) -> None:
    if not os.path.isdir(asked.folder):
        raise CoopInitError(
            f"{asked.folder} is no folder. Make one: coopinit warm-start nets.py:make -o {asked.folder}"
        )
    print(
        WarmStart.from_pretrained(asked.folder).push_to_hub(
            asked.repo,
            private=asked.private,
            branch=asked.branch,
            create_pr=asked.create_pr or None,
            real_samples=asked.real_samples,
        )
    )


def _show(asked: Any) -> None:
    names = [asked.init] + ([asked.other] if asked.other else [])
    found = [_read(name) for name in names]
    if asked.plot:
        found[0].plot(asked.plot)
    print(table(names, found))


def _read(name: str) -> WarmStart:
    if not os.path.isdir(name) and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise CoopInitError(f"{name} is neither a folder here nor a repository's name such as user/dcgan-init.")
    try:
        return WarmStart.from_pretrained(name)
    except (HfHubHTTPError, EntryNotFoundError) as error:
        raise CoopInitError(f"{name} is no folder here, and was not found on the Hub: {error}") from error


def _pair(name: str) -> tuple[Any, Any, Any, Adapter | None]:
    """Import the function and call it.

    Raises:
        CoopInitError: naming what is missing, what failed, or what came back instead.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function.isidentifier():
        raise CoopInitError(f"{name!r} names no function. Write module:function or path/file.py:function.")
    made = getattr(_module(place), function, None)
    if not callable(made):
        near = "is no function" if made is not None else "does not exist"
        raise CoopInitError(f"{function} {near} in {place}. It is to take nothing and return (G, D, loader).")
    try:
        pair = made()
    except (Exception, SystemExit) as error:
        raise _theirs(f"{name} failed", error) from error
    if not isinstance(pair, (tuple, list)) or len(pair) not in (3, 4):
        kind = f"{type(pair).__name__} of {len(pair)}" if isinstance(pair, (tuple, list)) else type(pair).__name__
        raise CoopInitError(f"{name} returned a {kind}; expected (G, D, loader), or (G, D, loader, adapter).")
    G, D, loader, *adapter = pair
    return G, D, loader, adapter[0] if adapter else None


def _module(place: str) -> Any:
    path = Path(place)
    if path.suffix != ".py" and not re.fullmatch(r"\w+(\.\w+)*", place):
        raise CoopInitError(f"{place!r} is neither a Python file nor a module's name.")
    if path.suffix == ".py" and not path.is_file():
        raise CoopInitError(f"{place} is no file here ({Path.cwd()}).")
    sys.path.insert(0, str(path.resolve().parent) if path.suffix == ".py" else os.getcwd())
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        name = path.stem if path.stem not in sys.modules else f"user_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that a DataLoader's workers find its classes
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        if error.name == place:
            raise CoopInitError(f"There is no module {place} here ({Path.cwd()}) or among those installed.") from error
        raise _theirs(f"{place} cannot be imported", error) from error
    except (Exception, SystemExit) as error:
        raise _theirs(f"{place} cannot be imported", error) from error


def _settings(given: list[str]) -> dict[str, Any]:
    """``["lr_generator=1e-4"]`` as keywords; what is no Python literal is a string."""
    settings = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise CoopInitError(f"--set {setting} sets nothing. Write --set NAME=VALUE, e.g. --set iterations=200.")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings


def _theirs(what: str, error: BaseException) -> CoopInitError:
    return CoopInitError(f"{what}: {type(error).__name__}: {error}. With --debug you see where.")


def _one_line(message: str) -> str:
    return " ".join(message.split())
