"""Chains that go on: a memory of pairs (z, x̃) whose chains are taken up again where they stood.

A chain that starts at a fresh G(z) in every iteration is never longer than its K steps, which at real image sizes reach
a few tenths of σ: G is then taught by targets that belong to no lasting sample. In the memory a latent keeps its
chain, which reaches the data in many short visits, as in persistent contrastive divergence (Tieleman 2008), while
G learns where each latent's chain has come to.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from coopinit_plugin.method.team import ALONE, Team

PLACES = 16  # pairs for each position of a batch, at the least
PAIRS = 256  # pairs in the memory, of all processes together, at the least
FRESH = 8  # of so many iterations one begins new chains, until the memory is full
PULL = 0.5  # largest share of the way to G(z) by which a chain is drawn back when it is taken up again
LOOSE = 0.2  # σ²; the share is G's mean squared distance to its chains in these, if that is less than PULL
ROOM = 1 / 8  # of the free memory of a GPU: a memory that would take more is kept on the CPU


class Chains(NamedTuple):
    """The chains of one iteration, one for each position of a batch."""

    z: Any  # the latents, with the conditions that belong to them
    beside: Any  # what else belongs to a chain: (what D is given beside x, where the chain may move)
    x: Any = None  # where the chains stand; None if they begin at G(z)


class Lag(NamedTuple):
    """How far G is behind."""

    chains: float = 0.0  # mean squared distance of G(z) to its chains at the end of the last iteration, in σ²
    data: float = 0.0  # newest sliced Wasserstein distance of G's samples to the data, in σ; 0 before the first one


LEVEL = Lag()


class Memory:
    """Several places for each position of a batch; each place holds one pair and what belongs to it.

    The first iteration, and every eighth one until all places are filled, begins new chains at fresh latents, so that
    most chains begin at a G that has learnt something. In all others every position of the batch takes up one of its
    places, drawn at random, so that chains meet in ever new batches. Processes draw alike, from one seed, each for its
    own positions: two of them with half the batch do what one does with the whole.
    """

    def __init__(self, places: int = PLACES, seed: int = 0, team: Team = ALONE) -> None:
        self.places, self.filled, self.size, self.turn = places, 0, 0, 0  # places for each position of a batch
        self._team = team
        self._random = random.Random(seed)
        self._kept: list[Any] = []  # of each leaf of a Chains: a tensor (places, N, ...), or an object for each place
        self._nest: Any = None
        self._devices: list[Any] = []  # of each leaf
        self._chosen: list[int] = []  # the place that each position has taken

    def take(self, fresh: Chains, n: int) -> Chains:
        """The chains of this iteration: the n fresh ones of a batch if it is their turn, those of the memory otherwise.

        Of a batch of another size than the first one none is taken.
        """
        self.size = self.size or n
        begins = self.turn % FRESH == 0 and self.filled < self.places and n == self.size
        self.turn += 1
        if not begins:
            return self.some()
        self._chosen = [self.filled] * n
        return fresh

    def some(self) -> Chains:
        """One pair for each position of a batch, drawn at random."""
        first = self.size * self._team.index
        drawn = self._random.choices(range(self.filled), k=self.size * self._team.count)
        self._chosen = drawn[first : first + self.size]
        if not all(isinstance(leaf, Tensor) or _same_for_all(leaf[0]) for leaf in self._kept):
            self._chosen = self._chosen[:1] * self.size  # what cannot be taken apart into samples stays together
        places, rows = torch.tensor(self._chosen), torch.arange(self.size)
        leaves = [kept[places, rows] if isinstance(kept, Tensor) else kept[self._chosen[0]] for kept in self._kept]
        leaves = [_on(leaf, device) for leaf, device in zip(leaves, self._devices, strict=True)]
        return tree_unflatten(leaves, self._nest)

    def put(self, chains: Chains, x: Any) -> None:
        """Write back where the chains that were taken stand now."""
        leaves, self._nest = tree_flatten(chains._replace(x=x))
        self._devices = [_device(leaf) for leaf in leaves]
        self._kept = self._kept or [self._room(leaf) for leaf in leaves]
        places, rows = torch.tensor(self._chosen), torch.arange(self.size)
        for kept, leaf in zip(self._kept, leaves, strict=True):
            if isinstance(kept, Tensor):
                kept[places, rows] = leaf.detach().to(kept.device)
            else:
                kept[self._chosen[0]] = leaf
        self.filled = max(self.filled, self._chosen[0] + 1)

    def _room(self, leaf: Any) -> Any:
        """Places for what belongs to each sample: on its device, or on the CPU if they are too large for a GPU."""
        if not (isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == self.size):
            return [leaf] * self.places
        device = _roomy(leaf.device, self.places * leaf.numel() * leaf.element_size())
        return torch.zeros(self.places, *leaf.shape, dtype=leaf.dtype, device=device)

    def state_dict(self) -> dict[str, Any]:
        """What a later :meth:`load_state_dict` goes on from; the nest is that of the next fresh chains."""
        counts = (self.filled, self.size, self.turn)
        return {"counts": counts, "random": self._random.getstate(), "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any], like: Chains) -> None:
        """Go on from there, `like` being chains of the same form."""
        self.filled, self.size, self.turn = state["counts"]
        self._random.setstate(state["random"])
        leaves, self._nest = tree_flatten(like)
        self._devices = [_device(leaf) for leaf in leaves]
        self._kept = state["kept"] and [  # there are none before the first iteration
            _on(kept, device and _roomy(device, kept.nbytes)) if isinstance(kept, Tensor) else kept
            for kept, device in zip(state["kept"], self._devices, strict=True)
        ]


def drawn_back(x: Any, g: Any, lag: Lag) -> Any:
    """Where a chain begins: a share of the way from x, where it stood, to g = G(z), half of it at the most.

    If G is close behind its chains, they are left to go on more freely: a chain that is drawn back farther than its
    steps lead never gets anywhere. The more so if G is closer to its chains than to the data, for then they have not
    come to the data themselves.
    """
    share = min(PULL, lag.chains / LOOSE) * (min(1.0, lag.chains / lag.data**2) if lag.data else 1.0)
    return tree_map(lambda stood, ours: torch.lerp(stood, ours.detach(), share), x, g)


def _same_for_all(leaf: Any) -> bool:
    """Whether something beside a chain says nothing of a single sample."""
    return leaf is None or isinstance(leaf, (Tensor, bool, int, float))


def _device(leaf: Any) -> torch.device | None:
    return leaf.device if isinstance(leaf, Tensor) else None


def _on(leaf: Any, device: torch.device | None) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) and device is not None else leaf


def _roomy(device: torch.device, taken: int) -> torch.device:
    """The device, or the CPU if so many bytes are too many for a GPU."""
    too_many = device.type == "cuda" and taken > ROOM * torch.cuda.mem_get_info(device)[0]
    return torch.device("cpu") if too_many else device
