"""What importing costs, and which way the arrows between the files point."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import coopinit_plugin

PACKAGE = Path(coopinit_plugin.__file__).parent
ARITHMETIC = ("langevin", "balance", "iteration", "handover", "stopping", "measures")
HEAVY = ("accelerate", "huggingface_hub", "safetensors", "matplotlib", "tqdm", "numpy")


def imports_of(name: str, *, inside_functions: bool = True) -> set[str]:
    """The modules that a file of the package names in its import statements."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module)
    return found


def reached(name: str) -> set[str]:
    """The files of the package that this one imports, directly or not."""
    found, left = set(), [name]
    while left:
        for module in imports_of(left.pop()):
            inner = module.removeprefix("coopinit_plugin.")
            if inner != module and inner not in found:
                found.add(inner)
                left.append(inner)
    return found


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names():
    assert set(coopinit_plugin.__all__) >= {
        "Adapter",
        "CoopInitError",
        "StepReport",
        "WarmStart",
        "WarmStartConfig",
        "infer_sign",
        "inspect",
        "warm_start",
    }
    for name in coopinit_plugin.__all__:
        assert inspect.getdoc(getattr(coopinit_plugin, name)), name
    assert issubclass(coopinit_plugin.CoopInitError, RuntimeError)
    assert (PACKAGE / "py.typed").exists()


def test_the_signature_of_warm_start_is_the_contracts():
    parameters = inspect.signature(coopinit_plugin.warm_start).parameters
    assert list(parameters)[:3] == ["generator", "discriminator", "loader"]
    named = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert named == {
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
        *("betas", "energy_l2", "handover", "seed", "compile"),
    }


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_arithmetic_knows_tensors_and_callables_only(name):
    files = reached(name) | {name}
    assert not files & {"engine", "warmup", "result", "inspection", "networks"}
    for file in files:
        roots = {module.split(".")[0] for module in imports_of(file)}
        assert not roots & set(HEAVY), file


def test_one_file_knows_accelerate_and_only_when_it_runs():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    knowing = {file for file in files if any(module.startswith("accelerate") for module in imports_of(file))}
    assert knowing == {"engine"}
    assert not any(module.startswith("accelerate") for module in imports_of("engine", inside_functions=False))


def test_the_arithmetic_can_be_imported_where_nothing_but_torch_is_installed():
    blocked = [name for name in HEAVY if name != "numpy"]  # torch's own
    run(
        "import sys, types\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None: cannot be imported
        "package = types.ModuleType('coopinit_plugin')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['coopinit_plugin'] = package\n"
        "import importlib\n"
        f"for name in {ARITHMETIC!r}:\n"
        "    importlib.import_module('coopinit_plugin.' + name)\n"
    )


def test_importing_the_library_is_light():
    loaded = run("import sys, coopinit_plugin; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not {"accelerate", "matplotlib", "PIL", "sklearn", "torchvision", "pandas", "transformers"} & set(loaded)


def test_importing_the_library_changes_nothing():
    run(
        "import os, random, signal, torch, warnings\n"
        "before = (dict(os.environ), random.getstate(), torch.get_rng_state().tolist(), signal.getsignal(2),\n"
        "          torch.get_num_threads(), torch.is_grad_enabled(), list(warnings.filters))\n"
        "import coopinit_plugin\n"
        "after = (dict(os.environ), random.getstate(), torch.get_rng_state().tolist(), signal.getsignal(2),\n"
        "         torch.get_num_threads(), torch.is_grad_enabled(), list(warnings.filters))\n"
        "assert before == after"
    )


def test_the_files_import_in_one_direction():
    for file in {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}:
        assert file not in reached(file) - {file} or file not in {
            inner for other in reached(file) - {file} for inner in reached(other)
        }, f"{file} is part of a circle"
