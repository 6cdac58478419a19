"""A DCGAN trained on any number of processes with the user's own Accelerator, and its warm start.

``ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 -m examples.distributed``, or ``accelerate launch``;
without a launcher it is one process.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

import coopinit_plugin  # ← added, 1 of 3
from examples.dcgan.networks import Discriminator, Generator, weights_init
from examples.dcgan.run import sample
from examples.helpers.digits import StackedDigits, coverage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.distributed", description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=800, help="adversarial iterations (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples of a process (default: %(default)s)")
    parser.add_argument("--no-warm-start", action="store_true", help="the random start")
    parser.add_argument("--smoke", action="store_true", help="small networks, 5 iterations: only to see that it runs")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/distributed"), metavar="DIR", help="default: %(default)s"
    )
    options = parser.parse_args()
    if options.smoke:
        options.iterations = 5

    accelerator = Accelerator()
    torch.set_num_threads(1)
    set_seed(0)
    width = 8 if options.smoke else 64
    G, D = Generator(8, width=width), Discriminator(8, width=width // 2)
    G.apply(weights_init)
    D.apply(weights_init)
    loader = DataLoader(StackedDigits(), options.batch, shuffle=True, drop_last=True)
    adam_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    G, D, adam_g, adam_d, loader = accelerator.prepare(G, D, adam_g, adam_d, loader)

    began = time.perf_counter()
    if not options.no_warm_start:
        config = coopinit_plugin.WarmStartConfig(max_iterations=5 if options.smoke else 400)
        told = {"accelerator": accelerator, "output_dir": options.out, "resume": True}  # ← added, 2 of 3
        coopinit_plugin.warm_start(G, D, loader, config=config, **told)  # ← added, 3 of 3
        say(accelerator, G, f"after the warm-up, {time.perf_counter() - began:.1f} s")

    train(accelerator, G, D, adam_g, adam_d, loader, options.iterations)
    say(accelerator, G, f"after {options.iterations} adversarial iterations, {time.perf_counter() - began:.1f} s")
    accelerator.end_training()


def train(accelerator, G, D, adam_g, adam_d, loader, iterations: int) -> None:
    """The adversarial loop, as with any Accelerator."""
    loss, done = nn.BCELoss(), 0
    while True:
        for real, _ in loader:
            ones, zeros = torch.ones(len(real), device=real.device), torch.zeros(len(real), device=real.device)
            fake = G(torch.randn(len(real), 64, 1, 1, device=real.device))

            adam_d.zero_grad()
            both = D(torch.cat([real, fake.detach()]))  # DDP reduces one forward pass's gradients
            accelerator.backward(loss(both, torch.cat([ones, zeros])))
            adam_d.step()

            adam_g.zero_grad()
            accelerator.backward(loss(D(fake), ones))
            adam_g.step()

            done += 1
            if done == iterations:
                return


def say(accelerator, G, when: str) -> None:
    """Modes covered, told by the main process; the others wait."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        covered = coverage(sample(accelerator.unwrap_model(G), 10_000))[0]
        print(f"{accelerator.num_processes} processes: {covered} of 1000 modes {when}", flush=True)


if __name__ == "__main__":
    main()
