"""Samplers of other projects between the same two training steps; the projects are where the caller has put them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from coopinit_plugin.method.energy_mode import likelihood_mode
from tests.benchmarks.iterations import DEVICE, NOISE, STEP, Contender
from tests.benchmarks.networks import Case


class Peer(Contender):
    """Another project's sampler between the two training steps."""

    def __init__(self, case: Case, steps: int, sampler: Callable[[Contender], Callable[[Tensor], Tensor]]) -> None:
        super().__init__(case, steps)
        self.sample = sampler(self)

    def __call__(self) -> None:
        g = self.G(self.z)
        refined = self.sample(g.detach().clone())
        likelihood_mode(self.D)  # some leave it in training mode
        self.train(g, refined)


def torchebm(run: Contender) -> Callable[[Tensor], Tensor]:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return -run.D(x)

    sampler = LangevinDynamics(Energy().to(DEVICE), step_size=STEP, noise_scale=1.0, device=torch.device(DEVICE))
    return lambda x: sampler.sample(x, n_steps=run.steps)


def _function(path: Path, name: str, **names: object) -> Callable:
    """One function out of a script that would train if it were imported."""
    source = path.read_text()
    source = source if DEVICE == "cuda" else source.replace(".cuda()", "")
    found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name]
    exec(compile(ast.Module(found, []), str(path), "exec"), names)
    return names[name]


def jem(folder: Path) -> Callable:
    class Named(nn.Module):
        def __init__(self, D: nn.Module) -> None:
            super().__init__()
            self.D = D

        def forward(self, x: Tensor, y: None = None) -> Tensor:
            return self.D(x)

    def sampler(run: Contender) -> Callable[[Tensor], Tensor]:
        start: list[Tensor] = []
        args = SimpleNamespace(n_steps=run.steps, sgld_lr=STEP, sgld_std=NOISE, batch_size=run.case.batch)
        given = {"t": torch, "args": args, "device": DEVICE, "init_random": lambda args, n: start.pop()}
        sample_q = _function(folder / "train_wrn_ebm.py", "get_sample_q", **given)(args, DEVICE)
        named = Named(run.D)
        return lambda x: (start.append(x), sample_q(named, []))[1]

    return sampler


def anatomy(folder: Path) -> Callable:
    def sampler(run: Contender) -> Callable[[Tensor], Tensor]:
        start: list[Tensor] = []
        given = {"t": torch, "config": {"epsilon": NOISE}, "device": DEVICE, "sample_q": start.pop}
        sample = _function(folder / "train_data.py", "sample_s_t", f=lambda x: -STEP * run.D(x), **given)
        return lambda x: (start.append(x), sample(run.steps, "data"))[1][0]

    return sampler


def coopnets(folder: Path) -> Callable:
    def sampler(run: Contender) -> Callable[[Tensor], Tensor]:
        opts = {"langevin_step_num_des": run.steps, "img_size": run.case.size, "z_size": 1, "sigma_des": 1.0}
        opts |= {"langevin_step_size_des": NOISE, "with_noise": True}
        model = SimpleNamespace(num_chain=run.case.batch, descriptor=lambda x: run.D(x)[:, None])
        model.opts = SimpleNamespace(**opts)
        given = {"torch": torch, "Variable": torch.autograd.Variable}
        sample = _function(folder / "model/model.py", "langevin_dynamics_descriptor", **given)
        return lambda x: sample(model, x).detach()

    return sampler


def peers(folder: Path | None) -> dict[str, Callable[[Case, int], Peer] | None]:
    """By name; nothing where a project is not there."""
    scripts = {"JEM": jem, "ebm-anatomy": anatomy, "pytorch-CoopNets": coopnets}
    found = {"torchebm": torchebm if importlib.util.find_spec("torchebm") else None}
    for name, sampler in scripts.items():
        found[name] = sampler(folder / name) if folder is not None and (folder / name).is_dir() else None
    return {name: sampler and partial(Peer, sampler=sampler) for name, sampler in found.items()}
