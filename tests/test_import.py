"""What importing costs, which way the arrows between the files point, and that no file outgrows its reader."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pydoc
import re
import subprocess
import sys
import types
from dataclasses import fields, is_dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from forked import Forked

import coopinit_plugin

PACKAGE = Path(coopinit_plugin.__file__).parent
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}

# The rooms and the files above them, from the bottom up; a file imports from its own floor and from those below.
FLOORS = (
    ("errors", "_version", "config"),
    ("nests",),
    ("method",),
    ("calling",),
    ("host",),
    ("result",),
    ("first_look", "loop"),
    ("warmup",),
    ("trial",),
    ("cli", "__init__", "__main__"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
METHOD = [file for file in FILES if file.startswith("method.")]

# (file, what it imports) that the rules below forbid; to be emptied.
KNOWN: set[tuple[str, str]] = set()

DECLARED = {"torch", "accelerate", "safetensors", "huggingface_hub"}
COME_WITH = {"tqdm": "huggingface-hub", "numpy": "accelerate", "jinja2": "torch"}  # as pyproject.toml says
OPTIONAL = {"torch_fidelity", "matplotlib"}
HEAVY = {*DECLARED, *COME_WITH, *OPTIONAL} - {"torch"}


def imports_of(file: str, *, inside_functions: bool = True) -> set[str]:
    """The modules that a file of the package names in its import statements."""
    tree = ast.parse(FILES[file].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if name.removeprefix("coopinit_plugin.") in FILES} or {node.module}
    return found


def inner(file: str) -> set[str]:
    """The files of the package that this one imports."""
    names = {name for name in imports_of(file) if name.split(".")[0] == "coopinit_plugin"}
    names = {name.partition(".")[2] or "__init__" for name in names}
    return {name if name in FILES else f"{name}.__init__" for name in names}


def outer(file: str, **how: bool) -> set[str]:
    """The other packages that a file imports, the standard library left out."""
    roots = {name.split(".")[0] for name in imports_of(file, **how)}
    return roots - set(sys.stdlib_module_names) - {"coopinit_plugin"}


# --- the names


def test_the_public_names():
    assert set(coopinit_plugin.__all__) >= {
        "Adapter",
        "CoopInitError",
        "SlicedWasserstein",
        "StepReport",
        "WarmStart",
        "WarmStartConfig",
        "infer_sign",
        "inspect",
        "presets",
        "warm_start",
    }
    for name in coopinit_plugin.__all__:
        assert inspect.getdoc(getattr(coopinit_plugin, name)), name
    assert issubclass(coopinit_plugin.CoopInitError, RuntimeError)
    assert (PACKAGE / "py.typed").exists()


def test_help_begins_with_an_example_and_the_public_names():
    told = pydoc.render_doc(coopinit_plugin, renderer=pydoc.plaintext).partition("PACKAGE CONTENTS")[0]
    example = re.search(r"^ *>>> .*warm_start\(G, D, loader", told, re.MULTILINE)
    assert example
    assert told[: example.start()].count("\n") < 15
    assert [name for name in coopinit_plugin.__all__ if not re.search(rf"\b{name}\b", told[example.start() :])] == []


def test_the_signature_of_warm_start_is_the_contracts():
    parameters = inspect.signature(coopinit_plugin.warm_start).parameters
    assert list(parameters)[:3] == ["generator", "discriminator", "loader"]
    named = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert named == {
        "handover": None,
        "config": None,
        "adapter": None,
        "accelerator": None,
        "output_dir": None,
        "resume": False,
        "ema": (),
        "callback": None,
        "progress": True,
    }


def test_the_settings_and_reports_are_frozen_dataclasses():
    for kind in (coopinit_plugin.WarmStartConfig, coopinit_plugin.Adapter, coopinit_plugin.StepReport):
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
    assert {field.name for field in fields(coopinit_plugin.WarmStartConfig)} >= {
        *("iterations", "max_iterations", "langevin_steps", "step_size", "noise", "lr_generator", "lr_discriminator"),
        *("betas", "energy_l2", "handover", "seed"),
    }


# --- the arrows between the files


def test_every_file_has_its_place():
    assert {file.split(".")[0] for file in FILES} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES)
def test_no_import_runs_up(file):
    floor = FLOOR[file.split(".")[0]]
    up = {(file, name) for name in inner(file) if FLOOR[name.split(".")[0]] > floor}
    assert up <= KNOWN


def test_the_files_import_in_no_circle():
    graph = {file: {name for name in inner(file) if (file, name) not in KNOWN} for file in FILES}
    TopologicalSorter(graph).prepare()  # an error that shows the circle, if there is one


@pytest.mark.parametrize("file", METHOD)
def test_the_method_rests_on_torch_and_errors_alone(file):
    assert outer(file) <= {"torch"}
    others = {(file, name) for name in inner(file) - {"errors"} if not name.startswith("method.")}
    assert others <= KNOWN


def test_the_method_can_be_imported_where_nothing_but_torch_is_installed():
    blocked = sorted(HEAVY - {"numpy", "jinja2"})  # torch's own
    names = [file.removesuffix(".__init__") for file in METHOD if file not in {exception for exception, _ in KNOWN}]

    def run() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("coopinit_plugin", *blocked)]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(blocked))  # None: cannot be imported
        package = sys.modules["coopinit_plugin"] = types.ModuleType("coopinit_plugin")
        package.__path__ = [str(PACKAGE)]
        for name in names:
            importlib.import_module(f"coopinit_plugin.{name}")
        sys.stdout.write(" ".join(name for name in sys.modules if name.startswith("coopinit_plugin.")))

    done = Forked(run).wait()
    assert done.returncode == 0, done.stderr
    assert {f"coopinit_plugin.{name}" for name in names} <= set(done.stdout.split())


def test_one_file_knows_accelerate_and_only_when_it_runs():
    assert {file for file in FILES if "accelerate" in outer(file)} == {"host.engine"}
    assert "accelerate" not in outer("host.engine", inside_functions=False)


def test_what_is_imported_is_declared_or_comes_with_what_is():
    imported = set().union(*(outer(file) for file in FILES))
    assert imported <= DECLARED | set(COME_WITH) | OPTIONAL
    at_once = set().union(*(outer(file, inside_functions=False) for file in FILES))
    assert not at_once & OPTIONAL
    for name, provider in COME_WITH.items():
        required = [re.split(r"[^\w-]", line)[0].lower() for line in importlib.metadata.requires(provider) or []]
        assert name in required, f"{provider} no longer brings {name}: declare it in pyproject.toml"


# --- what importing costs


def test_what_is_loaded_late_is_there_all_the_same():
    code = (
        "import sys, coopinit_plugin\n"
        "print(*[name for name in sys.modules if name.startswith('coopinit_plugin.')])\n"
        "print(*[name for name in coopinit_plugin.__all__ if name not in dir(coopinit_plugin)])\n"
        "from coopinit_plugin import *\n"
        "print(pilot is coopinit_plugin.pilot, isinstance(WarmStart, type), warm_start.__name__, hasattr(pilot, 'x'))\n"
        "print(hasattr(coopinit_plugin, 'warm_up'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert not [name for name in told[0].split() if "trial" in name or name.endswith((".warmup", ".warm_start"))]
    assert told[1:] == ["", "True True warm_start False", "False"]


def test_importing_the_library_is_light_and_changes_nothing():
    """What it adds to torch is counted in modules, not in seconds."""
    state = (
        "(dict(os.environ), random.getstate(), torch.get_rng_state().tolist(), signal.getsignal(2),\n"
        "torch.get_num_threads(), torch.is_grad_enabled(), list(warnings.filters))"
    )
    code = (
        "import os, random, signal, sys, torch, warnings\n"
        f"before, modules = {state}, set(sys.modules)\n"
        "import coopinit_plugin\n"
        f"print(before == {state}, *set(sys.modules) - modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unchanged, *new = done.stdout.split()
    assert unchanged == "True"
    assert "coopinit_plugin" in new
    heavy = {
        "accelerate",
        "huggingface_hub",
        "jinja2",
        "matplotlib",
        "PIL",
        "scipy",
        "pandas",
        "sklearn",
        "torchvision",
        "transformers",
        "triton",
    }
    assert not (heavy | {"pydantic", "typer"}) & {name.partition(".")[0] for name in new}


# --- a house that stays readable


def test_no_file_has_more_than_250_lines():
    lengths = {file: len(path.read_text(encoding="utf-8").splitlines()) for file, path in FILES.items()}
    assert {file: length for file, length in lengths.items() if length > 250} == {}


def test_no_function_has_more_than_45_lines_beside_its_docstring():
    long = {}
    for file, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                told = node.body[0] if ast.get_docstring(node) else None
                length = node.end_lineno - node.lineno + 1 - (told.end_lineno - told.lineno + 1 if told else 0)
                if length > 45:
                    long[f"{file}.{node.name}"] = length
    assert long == {}


def test_the_methods_readme_says_what_every_file_holds():
    told = re.findall(r"`(\w+)\.py`", (PACKAGE / "method" / "README.md").read_text(encoding="utf-8"))
    assert sorted(told) == sorted({file.removeprefix("method.") for file in METHOD} - {"__init__"})
