"""Signals and sequences: (N, C, L), (N, L, C), recurrent layers, scores per time step."""

from __future__ import annotations

import torch
from torch import nn

from zoo.entry import Entry, Module, N, batches, least_squares, net, wasserstein

L = 6


class LstmG(Module):
    """(N, L, d) -> (N, L, C)."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__(lstm=nn.LSTM(4, 8, batch_first=True), out=nn.Linear(8, channels))

    def forward(self, z):
        return self.out(self.lstm(z)[0])


class LstmD(Module):
    """The last state's score, (N, 1)."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__(lstm=nn.LSTM(channels, 8, batch_first=True), out=nn.Linear(8, 1))

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


class StepD(LstmD):
    """A score per time step, (N, L, 1)."""

    def forward(self, x):
        return self.out(self.lstm(x)[0])


class StepFlatD(LstmD):
    """A score per time step, (N, L)."""

    def forward(self, x):
        return self.out(self.lstm(x)[0]).squeeze(-1)


class StepRowsD(LstmD):
    """A score per time step, flattened to (N·L, 1)."""

    def forward(self, x):
        return self.out(self.lstm(x)[0]).reshape(-1, 1)


class StepProbabilityD(LstmD):
    """A probability per time step."""

    def forward(self, x):
        return torch.sigmoid(self.out(self.lstm(x)[0]))


class TransformerG(Module):
    """(N, L, d) through self-attention."""

    def __init__(self) -> None:
        super().__init__(block=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), out=nn.Linear(4, 2))

    def forward(self, z):
        return self.out(self.block(z))


class ChannelsLastG(Module):
    """Convolutions over (N, L, d)."""

    def __init__(self) -> None:
        super().__init__(conv=nn.Conv1d(4, 6, 3, padding=1), out=nn.Conv1d(6, 1, 1))

    def forward(self, z):
        return self.out(self.conv(z.transpose(1, 2)).relu()).transpose(1, 2)


def signal_pair() -> tuple[nn.Module, nn.Module]:
    """1-D signals, (N, C, L), from (N, d)."""
    G = net(nn.Linear(4, 6 * 3), nn.Unflatten(1, (6, 3)), nn.ReLU(), nn.ConvTranspose1d(6, 2, 4, 2, 1))
    return G, net(nn.Conv1d(2, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv1d(6, 1, 3))


def temporal_pair() -> tuple[nn.Module, nn.Module]:
    """A G of plain convolutions over noise as long as the signal."""
    G = net(nn.Conv1d(4, 6, 3, padding=1), nn.PReLU(), nn.Conv1d(6, 1, 3, padding=1))
    return G, net(nn.Conv1d(1, 6, 3), nn.PReLU(), nn.Flatten(), nn.Linear(24, 1))


ENTRIES = [
    Entry("LSTM G and D", lambda: (LstmG(), LstmD(), batches(L, 2)), ((N, L, 4),), shows=("LSTM",)),
    Entry("a score per time step, (N, L, 1)", lambda: (LstmG(), StepD(), batches(L, 2)), ((N, L, 4),)),
    Entry("a score per time step, (N, L)", lambda: (LstmG(), StepFlatD(), batches(L, 2)), ((N, L, 4),)),
    Entry("time steps as rows, (N·L, 1)", lambda: (LstmG(), StepRowsD(), batches(L, 2)), ((N, L, 4),)),
    Entry(
        "a probability per time step",
        lambda: (LstmG(), StepProbabilityD(), batches(L, 2)),
        ((N, L, 4),),
        logit=lambda D, x, batch: D.out(D.lstm(x)[0]),
        shows=("the logit before",),
    ),
    Entry(
        "one channel, a probability per time step",
        lambda: (LstmG(1), StepProbabilityD(1), batches(L, 1)),
        ((N, L, 4),),
        logit=lambda D, x, batch: D.out(D.lstm(x)[0]),
        adapter={"score": lambda D, x, z, batch: D(x)},
    ),
    Entry("convolutions, channels last", lambda: (ChannelsLastG(), LstmD(1), batches(L, 1)), ((N, L, 4),)),
    Entry("transformer", lambda: (TransformerG(), LstmD(), batches(L, 2)), ((N, L, 4),)),
    Entry("signals (N, C, L)", lambda: (*signal_pair(), batches(2, L)), d_loss=least_squares),
    Entry(
        "weight clipping, noise as long as the signal",
        lambda: (*temporal_pair(), batches(1, L)),
        ((N, 4, L),),
        adapter={"after_d_step": lambda D: [p.data.clamp_(-0.1, 0.1) for p in D.parameters()]},
        d_loss=wasserstein,
    ),
    Entry(
        "a time channel that must not move",
        lambda: (LstmG(), LstmD(), batches(L, 2)),
        ((N, L, 4),),
        adapter={"mask": torch.tensor([1.0, 0.0])},
    ),
]
