"""One training run, watched: its clock stands still while the generator is measured."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from coopinit_plugin import WarmStart
from examples.dcgan.data import Task
from examples.dcgan.networks import Discriminator, Generator
from examples.dcgan.train import train

BATCH = 64


class Run:
    """A DCGAN from a random or from a warm start.

    Its seconds are CPU seconds of this process. Torch is held to one thread, so that on an idle machine they are
    wall-clock seconds, and on a busy one the comparison stays fair.

    Args:
        task: What to learn.
        seed: Of the networks, the batches and the latents.
        warm: Whether the warm-up comes first.
        width: Channels of both networks, as a share of the usual ones.
        batch_norm: Whether D has BatchNorm.

    Attributes:
        iterations: Adversarial iterations done.
        seconds: Seconds of training, the warm-up included.
        curve: (Seconds, score), first right before the adversarial iterations, last at the end.
        before: The samples then, ``(task.samples, 3, size, size)``.
        after: The samples at the end, from the same latents.
        result: What the warm-up gave.
    """

    def __init__(self, task: Task, seed: int, *, warm: bool, width: float = 1.0, batch_norm: bool = False) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.task = task
        self.seed = seed
        self.warm = warm
        self.G = Generator(task.size, width=int(64 * width))
        self.D = Discriminator(task.size, width=int(32 * width), batch_norm=batch_norm)
        self.loader = DataLoader(task.dataset, BATCH, shuffle=True, drop_last=True)
        self.iterations = 0
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []
        self.before: Tensor
        self.after: Tensor
        self.result: WarmStart | None = None

    @property
    def name(self) -> str:
        return "Warm start" if self.warm else "Random start"

    def train(self, *, iterations: int | None = None, seconds: float | None = None, every: int = 50) -> Run:
        """Train for so many adversarial iterations, or for so many seconds in all; measure after `every` so many."""
        torch.manual_seed(self.seed)  # both starts from the same weights, whatever ran before
        torch.optim.Adam([torch.zeros(1)])  # the first one of a process imports for seconds: not on the clock
        bar: tqdm | None = None
        resumed = time.process_time()

        def keep_going(done: int) -> bool:
            nonlocal bar, resumed
            self.iterations = done
            self.seconds += time.process_time() - resumed
            bar = bar or tqdm(desc=self.name, total=1.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
            share = done / iterations if seconds is None else self.seconds / seconds
            if done % every == 0 or share >= 1:
                self._measure()
                bar.set_postfix_str(self.task.tell(self.curve[-1][1]), refresh=False)
            bar.update(min(share, 1.0) - bar.n)
            resumed = time.process_time()
            return share < 1

        self.result = train(self.G, self.D, self.loader, keep_going, warm_start=self.warm)
        bar.close()
        return self

    def _measure(self) -> None:
        self.after = sample(self.G, self.task.samples)
        if not self.curve:
            self.before = self.after
        self.curve.append((self.seconds, float(self.task.measure(self.after))))


@torch.no_grad()
def sample(G: nn.Module, n: int) -> Tensor:
    """`n` samples, always from the same latents, G in evaluation mode; torch's own random state stays as it is."""
    z = torch.randn(n, G.nz, 1, 1, generator=torch.Generator().manual_seed(0))
    G.eval()
    samples = torch.cat([G(part) for part in z.split(1000)])
    G.train()
    return samples
