"""One cooperative iteration in several hands, the least that it could be, and the adversarial step that it precedes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, softplus

from coopinit_plugin import Adapter
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.calling.inspection import look
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.energy_mode import likelihood_mode, settle
from coopinit_plugin.method.iteration import AveragedGenerator, Settings, cooperate
from coopinit_plugin.method.memory import Memory
from examples.study import cost
from tests.benchmarks.networks import Case

DEVICE = cost.DEVICE.type
NOISE, STEP, L2 = 0.06, 1e-3, 0.1


class Contender:
    """A pair of its own, with everything that an iteration needs."""

    def __init__(self, case: Case, steps: int) -> None:
        self.case, self.steps = case, steps
        self.G, self.D = case.pair(DEVICE)
        self.x, self.z = case.data(DEVICE)
        likelihood_mode(self.D)
        self.adam_g = torch.optim.Adam(self.G.parameters(), 5e-4, (0.5, 0.999))
        self.adam_d = torch.optim.Adam(self.D.parameters(), 1e-3, (0.5, 0.999))
        settle(self.D, lambda: self.D(self.x))

    def train(self, g: Tensor, refined: Tensor) -> None:
        """One step of G, one of D."""
        self.adam_g.zero_grad()
        mse_loss(g, refined).backward()
        self.adam_g.step()
        self.adam_d.zero_grad()
        for samples, sign in ((refined, 1), (self.x, -1)):
            f = self.D(samples)
            (sign * f.mean() + L2 * f.square().mean()).backward()
        self.adam_d.step()


class Floor(Contender):
    def __call__(self) -> None:
        g = self.G(self.z)
        self.D.requires_grad_(False)
        x = g.detach().clone().requires_grad_()
        for _ in range(self.steps):
            torch.autograd.grad(self.D(x).sum(), x)
        self.D.requires_grad_(True)
        self.train(g, x.detach())


class Library(Contender):
    """As `warm_start` calls it, with the reading of the statistics and the averaging of the weights."""

    def __init__(self, case: Case, steps: int) -> None:
        super().__init__(case, steps)
        self.pair = bound(self.G, self.D, look(self.G, self.D, self.x, self.x.device, Adapter()))
        self.G.train()
        likelihood_mode(self.D)
        lay_out(self.D, lambda: self.pair.score(self.x, self.z, self.x), self.x)
        self.step, self.settings = step_size("balanced", steps), Settings(NOISE, L2, [float(self.x.std())])
        self.memory = Memory(4)
        self.averaged = AveragedGenerator(self.G, self.D, 0.9)

    def __call__(self) -> None:
        given = self.step, self.settings, self.adam_g, self.adam_d
        _, found = cooperate(self.pair, self.memory, (self.x, self.z, self.x), *given)
        self.averaged.update(2)
        found.read()


class Adversarial(Contender):
    """One step of D, one of G, as the DCGAN example of torch has them: the samples are made once."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.D.train()

    def __call__(self) -> None:
        self.adam_d.zero_grad()
        softplus(-self.D(self.x)).mean().backward()
        fake = self.G(self.z)
        softplus(self.D(fake.detach())).mean().backward()
        self.adam_d.step()
        self.adam_g.zero_grad()
        softplus(-self.D(fake)).mean().backward()
        self.adam_g.step()


class PlainScript(Contender):
    """As a script would have it: D not frozen in the chain, samples made once more for the teaching."""

    def __call__(self) -> None:
        with torch.no_grad():
            x = self.G(self.z)
        for _ in range(self.steps):
            x = x.detach().requires_grad_()
            self.D(x).sum().backward()
            x = x + STEP * x.grad + NOISE * torch.randn_like(x)
        x = x.detach()
        f_refined, f_real = self.D(x), self.D(self.x)
        loss_d = f_refined.mean() - f_real.mean() + L2 * (f_refined.square().mean() + f_real.square().mean())
        self.adam_d.zero_grad()
        loss_d.backward()
        self.adam_d.step()
        loss_g = mse_loss(self.G(self.z), x)
        self.adam_g.zero_grad()
        loss_g.backward()
        self.adam_g.step()
        loss_d.item(), loss_g.item()
