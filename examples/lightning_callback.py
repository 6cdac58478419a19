"""A warm start for a GAN in Lightning: a callback, and nothing else in your LightningModule.

``Trainer(callbacks=[WarmStart()])``. The callback runs before the first training step (``on_train_start``), when the
networks are on their device and the loader is there. It does nothing where a run is resumed: the weights come from the
checkpoint then. It was run in one process on a CPU; several have not been tried with it.

With ``DataLoader(persistent_workers=True)`` the warm-up uses up batches of the epoch that has begun by then: give
it a loader of its own then.

Lightning is no dependency of this library; ``python -m examples.lightning_callback`` needs ``pip install lightning``.
"""

from __future__ import annotations

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

import coopinit_plugin
from examples.dcgan.networks import Discriminator, Generator, weights_init
from examples.dcgan.run import sample
from examples.helpers.digits import StackedDigits, coverage


class WarmStart(lightning.Callback):
    """Warms up ``module.generator`` and ``module.discriminator`` once, on the trainer's own batches."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.global_step == 0:
            coopinit_plugin.warm_start(module.generator, module.discriminator, trainer.train_dataloader)


class GAN(lightning.LightningModule):
    """A DCGAN by manual optimisation, as Lightning's own example has it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = Generator(8, width=width), Discriminator(8, width=width // 2)
        self.apply(weights_init)
        self.loss = nn.BCELoss()

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list]:
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in networks], []

    def training_step(self, batch: list[torch.Tensor], index: int) -> None:
        real, _ = batch
        adam_g, adam_d = self.optimizers()
        ones, zeros = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)
        fake = self.generator(torch.randn(len(real), self.generator.nz, 1, 1, device=self.device))

        adam_d.zero_grad()
        self.manual_backward(
            self.loss(self.discriminator(real), ones) + self.loss(self.discriminator(fake.detach()), zeros)
        )
        adam_d.step()

        adam_g.zero_grad()
        self.manual_backward(self.loss(self.discriminator(fake), ones))
        adam_g.step()


def train(steps: int, width: int = 64, warm: bool = True) -> GAN:
    """A GAN after so many adversarial iterations."""
    lightning.seed_everything(0, verbose=False)
    module = GAN(width)
    trainer = lightning.Trainer(
        max_steps=2 * steps,  # Lightning counts the steps of both optimizers
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[WarmStart()] if warm else [],
    )
    trainer.fit(module, DataLoader(StackedDigits(), 64, shuffle=True, drop_last=True))
    return module


if __name__ == "__main__":
    for warm in (True, False):
        covered = coverage(sample(train(800, warm=warm).generator, 10_000))[0]
        print(f"{'warm' if warm else 'random'} start: {covered} of 1000 modes after 800 adversarial iterations")
