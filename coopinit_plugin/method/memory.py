"""Chains that go on: a memory of pairs (z, x̃) whose chains are taken up again where they stood."""

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from coopinit_plugin.method.pair import ALONE, Team

PLACES = 16  # pairs for each position of a batch, at the least
PAIRS = 256  # pairs in the memory, of all processes together, at the least
FRESH = 8  # of so many iterations one begins new chains, until the memory is full
PULL = 0.5  # largest share of the way to G(z) by which a chain is drawn back when it is taken up again
LOOSE = 0.2  # σ²; the share is G's mean squared distance to its chains in these, if that is less than PULL
SHARE = 1 / 8  # of a GPU's free memory: what would take more is kept on the CPU
OF_NO_SAMPLE = (Tensor, bool, int, float, type(None))  # what beside a chain says nothing of a single sample


class Chains(NamedTuple):
    """The chains of one iteration, one for each position of a batch."""

    z: Any  # the latents, with the conditions that belong to them
    batch: Any  # what D is given beside x
    mask: Any  # where the chain may move
    x: Any = None  # where the chains stand; None if they begin at G(z)


class Memory:
    """Several places for each position of a batch; each place holds one pair and what belongs to it.

    Every eighth iteration, until all are filled, begins new chains; in all others every position takes up one of its
    places. Processes draw alike, from one seed, each for its own positions.
    """

    def __init__(self, places: int = PLACES, seed: int = 0, team: Team = ALONE) -> None:
        self.places, self.filled, self.size, self.turn = places, 0, 0, 0  # places for each position of a batch
        self._team = team
        self._random = random.Random(seed)
        self._kept: list[Any] = []  # of each leaf of a Chains: a tensor (places, N, ...), or an object for each place
        self._nest: Any = None
        self._device: torch.device | None = None  # of the chains
        self._place = 0  # the one that the first position has taken
        self._index: Any = None  # of all places that were taken, in a tensor (places, N, ...)

    def take(self, fresh: Chains, n: int) -> Chains:
        """This iteration's chains: n fresh ones if it is their turn and n as in the first batch; otherwise old ones."""
        self.size = self.size or n
        begins = self.turn % FRESH == 0 and self.filled < self.places and n == self.size
        self.turn += 1
        if not begins:
            return self.some()
        self._choose([self.filled] * n)
        return fresh

    def some(self) -> Chains:
        """One pair for each position of a batch, drawn at random."""
        first = self.size * self._team.index
        drawn = self._random.choices(range(self.filled), k=self.size * self._team.count)
        chosen = drawn[first : first + self.size]
        if not all(isinstance(kept if isinstance(kept, Tensor) else kept[0], OF_NO_SAMPLE) for kept in self._kept):
            chosen = chosen[:1] * self.size  # what cannot be taken apart into samples stays together
        self._choose(chosen)
        leaves = [kept[self._taken(kept)] for kept in self._kept]
        return tree_unflatten([_on(self._device, leaf) for leaf in leaves], self._nest)

    def put(self, chains: Chains, x: Any) -> None:
        """Write back where the chains that were taken stand now."""
        leaves, self._nest = tree_flatten(chains._replace(x=x))
        self._device = tree_leaves(x)[0].device
        self._kept = self._kept or [self._room(leaf) for leaf in leaves]
        for kept, leaf in zip(self._kept, leaves, strict=True):
            kept[self._taken(kept)] = _on(kept.device, leaf.detach()) if isinstance(kept, Tensor) else leaf
        self.filled = max(self.filled, self._place + 1)

    def _room(self, leaf: Any) -> Any:
        """Places for a leaf: rows for each sample, if it is a tensor with as many rows as a batch has samples."""
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == self.size:
            return leaf.new_zeros(self.places, *leaf.shape, device=_roomy(leaf.device, self.places * leaf.nbytes))
        return [leaf] * self.places

    def _choose(self, places: list[int]) -> None:
        self._place, self._index = places[0], (torch.tensor(places), torch.arange(len(places)))

    def _taken(self, kept: Any) -> Any:
        """The index of the places that were taken."""
        return self._index if isinstance(kept, Tensor) else self._place

    def state_dict(self) -> dict[str, Any]:
        """What a later :meth:`load_state_dict` goes on from; the nest is that of the next fresh chains."""
        counts = (self.filled, self.size, self.turn)
        return {"counts": counts, "random": self._random.getstate(), "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any], like: Chains) -> None:
        """Go on from there, `like` being chains of the same form."""
        self.filled, self.size, self.turn = state["counts"]
        self._random.setstate(state["random"])
        leaves, self._nest = tree_flatten(like)
        self._kept = state["kept"] and [  # there are none before the first iteration
            kept.to(_roomy(leaf.device, kept.nbytes)) if isinstance(kept, Tensor) else kept
            for kept, leaf in zip(state["kept"], leaves, strict=True)
        ]
        self._device = tree_leaves(like.x)[0].device


def drawn_back(x: Any, g: Any, behind: float, distance: float = 0.0) -> Any:
    """Where a chain goes on: a share of the way from x, where it stood, to g = G(z), half of it at the most."""
    share = min(PULL, behind / LOOSE) * (min(1.0, behind / distance**2) if distance else 1.0)
    return tree_map(lambda stood, ours: torch.lerp(stood, ours.detach(), share), x, g)


def _on(device: torch.device | None, leaf: Any) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _roomy(device: torch.device, taken: int) -> torch.device:
    """The device, or the CPU if so many bytes are too many for a GPU."""
    too_many = device.type == "cuda" and taken > SHARE * torch.cuda.mem_get_info(device)[0]
    return torch.device("cpu") if too_many else device
