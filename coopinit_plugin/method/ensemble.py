"""An ensemble for a D that has too little to say: copies of it with other weights, whose scores are added to its own.

An energy as small as Unrolled GAN's D, a quarter as wide as G, comes to a halt far from the data, however long it
learns. Several of them see more. They serve the warm-up alone and are thrown away after it; D is handed over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.method.pair import Pair

MOST = 8  # energies, D among them
TOO_CLOSE = 0.5  # G's mean squared distance to its chains over W²: were the chains at the data, it would be 1 at least


def energies_of(G: nn.Module, D: nn.Module, copied: Callable[[nn.Module], nn.Module], seed: int) -> list[nn.Module]:
    """D, and as many copies of it as are together no larger than G, each weight's entries in another order."""
    shuffle = torch.Generator().manual_seed(seed)
    energies = [D, *(copied(D) for _ in range(min(MOST, _numbers(G) // max(1, _numbers(D))) - 1))]
    with torch.no_grad():
        for energy in energies[1:]:
            for weight in energy.parameters():
                if weight.ndim > 1 and weight.requires_grad:
                    order = torch.randperm(weight.numel(), generator=shuffle).to(weight.device)
                    weight.copy_(weight.flatten()[order].view_as(weight))
    return energies


def _numbers(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))


@dataclass
class Ensemble:
    """D alone, or all energies together once they are called.

    Args:
        members: G with each of the energies, D first.
    """

    members: list[Pair]
    called: bool = False

    @property
    def pair(self) -> Pair:
        """G with D alone, or with all energies as one D."""
        if not self.called:
            return self.members[0]
        energies = nn.ModuleList([member.D for member in self.members])
        return replace(self.members[0], D=energies, logits=self.logits, after_d_step=self.after_d_step)

    def logits(self, x: Any, z: Any, batch: Any) -> Tensor:
        """The sum of the logits, as large as one of them: they are independent, so it is divided by √n."""
        each = [member.logits(x, z, batch) for member in self.members]
        return torch.stack(each).sum(0) / len(each) ** 0.5

    def after_d_step(self) -> None:
        """What the user's loop does, for each of them."""
        for member in self.members:
            member.after_d_step()

    def is_needed(self, behind: float, distance: float) -> bool:
        """Whether G is closer to its chains (T, in σ²) than to the data (W, in σ), so that they do not lead there."""
        return len(self.members) > 1 and not self.called and behind < TOO_CLOSE * distance**2
