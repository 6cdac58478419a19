"""Audio, time series, trajectories, text."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import scipy.signal
import torch
from torch import nn
from torch.nn.functional import one_hot

from tests.upstream.entry import (
    N,
    Upstream,
    batches,
    definitions,
    importing,
    itself,
    least_squares,
    module,
    normal,
    undone,
    wasserstein,
)


def wavegan(folder: Path) -> Any:
    made = definitions(folder / "models.py", noise_latent_dim=100)
    both = {"model_size": 2, "slice_len": 16384}
    return made["WaveGANGenerator"](**both), made["WaveGANDiscriminator"](**both), batches(1, 16384)


def melgan(folder: Path) -> Any:
    G = module(folder, "model.generator").Generator(80)
    D = module(folder, "model.multiscale").MultiScaleDiscriminator()
    two = [(torch.randn(2, 80, 4), torch.rand(2, 1, 1024) * 2 - 1) for _ in range(4)]
    return G, D, [(two[0], two[1]), (two[2], two[3])]


def last_maps(out: Any) -> Any:
    return sum(score.flatten(1).mean(1) for _, score in out)


def hifigan(folder: Path) -> Any:
    made = module(folder, "models", ("librosa", "librosa.util", "librosa.filters"))
    h = SimpleNamespace(
        resblock="2", upsample_rates=[8, 8, 4], upsample_kernel_sizes=[16, 16, 8], upsample_initial_channel=16,
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 2]],
    )  # fmt: skip
    D = nn.ModuleList([made.MultiPeriodDiscriminator(), made.MultiScaleDiscriminator()])
    loader = [(torch.randn(2, 80, 2), torch.rand(2, 512) * 2 - 1, ["a", "b"], torch.randn(2, 80, 2)) for _ in range(2)]
    return made.Generator(h), D, loader


def of_both(D: Any, x: Any) -> Any:
    return sum(f.flatten(1).mean(1) for d in D for f in d(x, x)[0])


def parallel(folder: Path) -> Any:
    scipy.signal.kaiser = scipy.signal.windows.kaiser  # moved there since
    with importing(folder, ("librosa", "soundfile", "h5py", "kaldiio")):
        made = importlib.import_module("parallel_wavegan.models.parallel_wavegan")
    scales = {"upsample_scales": [4, 4]}
    G = made.ParallelWaveGANGenerator(layers=3, stacks=1, aux_channels=20, upsample_params=scales)
    loader = [((torch.randn(4, 1, 256), torch.randn(4, 20, 16 + 4)), x) for x in batches(1, 256, n=4)]
    return G, made.ParallelWaveGANDiscriminator(layers=3, conv_channels=8), loader


def tts(folder: Path) -> Any:
    made = module(folder, "GANModels", ("torchsummary",))
    return made.Generator(), made.Discriminator(), [[x, torch.zeros(N).long()] for x in batches(3, 1, 150)]


def recurrent(folder: Path) -> Any:
    made = module(folder, "models.recurrent_models")
    return made.LSTMGenerator(5, 1, hidden_dim=16), made.LSTMDiscriminator(1, hidden_dim=16), batches(24, 1)


def causal(folder: Path) -> Any:
    made = module(folder, "models.convolutional_models")
    G = made.CausalConvGenerator(5, 1, n_layers=2, n_channel=8, kernel_size=3, dropout=0)
    return G, made.CausalConvDiscriminator(1, n_layers=2, n_channel=8, kernel_size=3, dropout=0), batches(24, 1)


EMBEDDER: list[nn.Module] = []  # a third network of the user's, in reach of the hooks


def timegan(folder: Path) -> Any:
    made = module(folder, "models.timegan")
    args = SimpleNamespace(
        feature_dim=4, Z_dim=4, hidden_dim=6, num_layers=1, padding_value=-1.0, max_seq_len=12, batch_size=N
    )
    EMBEDDER[:] = [made.EmbeddingNetwork(args)]
    return made.GeneratorNetwork(args), made.DiscriminatorNetwork(args), [
        [torch.rand(N, 12, 4), torch.full((N,), 12)] for _ in range(2)
    ]  # fmt: skip


def embedded(batch: Any) -> Any:
    return EMBEDDER[0](*batch).detach()


def trajectories(folder: Path) -> Any:
    made = module(folder, "sgan.models")
    G = made.TrajectoryGenerator(8, 12, 16, 16, 16, 32, noise_dim=(4,), pool_every_timestep=False, batch_norm=False)
    D = made.TrajectoryDiscriminator(8, 12, 16, 16, 32, batch_norm=False)
    ends = torch.tensor([[0, 3], [3, N]])

    def batch() -> Any:
        moves = [torch.randn(length, N, 2) for length in (8, 12, 8, 12)]
        return (*moves, torch.zeros(N), torch.ones(N, 20), ends)

    return G, D, [batch() for _ in range(2)]


def language(folder: Path) -> Any:
    made = definitions(
        folder / "gan_language.py", DIM=8, SEQ_LEN=10, BATCH_SIZE=N, charmap={c: i for i, c in enumerate("abcdef")}
    )
    G, D = made["Generator"](), made["Discriminator"]()
    return G, D, [one_hot(torch.randint(0, 6, (N, 10)), 6).float() for _ in range(2)]


SERIES = ("proceduralia/pytorch-GAN-timeseries", "8e7d62fed6f4061d13ec9dfd84e07520d4257ed2", "")

ENTRIES = [
    Upstream(
        "mostafaelaraby/wavegan-pytorch", "b3c6b6e6e3c98498eaad9ed55a0767e9a665d20c", "Apache-2.0", "16384 samples", wavegan,
        normal(100), real=itself, d_loss=wasserstein,
    ),
    Upstream(
        "seungwonpark/melgan", "aca59909f6dd028ec808f987b154535a7ca3400c", "BSD-3", "three scales", melgan,
        lambda n, batch: batch[1][0], real=lambda batch: batch[1][1], logit=lambda D, x, batch: last_maps(D(x)),
        d_loss=least_squares,
        adapter={"real": lambda batch: batch[1][1], "latent": lambda n, device, batch: batch[1][0]},
    ),
    Upstream(
        "jik876/hifi-gan", "4769534d45265d52a904b850da5a622601885777", "MIT", "two discriminators", hifigan,
        lambda n, batch: batch[0], real=lambda batch: batch[1].unsqueeze(1), logit=lambda D, x, batch: of_both(D, x),
        d_loss=least_squares, extra=1,
        adapter={
            "real": lambda batch: batch[1].unsqueeze(1),
            "latent": lambda n, device, batch: batch[0],
            "score": lambda D, x, z, batch: sum(f.flatten(1).mean(1) for d in D for f in d(x, x)[0]),
        },
    ),
    Upstream(
        "kan-bayashi/ParallelWaveGAN", "86740373ec609cb9fb192d472d2aea125041491a", "MIT", "Parallel WaveGAN", parallel,
        lambda n, batch: batch[0], lambda G, z, batch: G(*z), lambda batch: batch[1], d_loss=least_squares,
        adapter={
            "real": lambda batch: batch[1],
            "latent": lambda n, device, batch: batch[0],
            "score": lambda D, x, z, batch: D(x),
        },
    ),
    Upstream(
        "imics-lab/tts-gan", "3f8b36ab84d1c00d48021d6e7c5dbd461686844e", "Apache-2.0", "UniMiB", tts, normal(100),
        d_loss=least_squares,
    ),
    Upstream(
        *SERIES, "LSTM", recurrent, normal(24, 5), real=itself, logit=lambda D, x, batch: undone(D(x)),
        adapter={"score": lambda D, x, z, batch: D(x)},
    ),
    Upstream(
        *SERIES, "causal convolutions", causal, normal(24, 5), real=itself, logit=lambda D, x, batch: undone(D(x)),
        adapter={"score": lambda D, x, z, batch: D(x)},
    ),
    Upstream(
        "birdx0810/timegan-pytorch", "fb44aab7493ec21306ef968964a925d8c74382f4", "MIT", "generator in the latent space", timegan,
        lambda n, batch: (torch.rand(n, 12, 4), batch[1]), lambda G, z, batch: G(*z), embedded,
        lambda D, x, batch: D(x, batch[1]),
        adapter={
            "real": embedded,
            "latent": lambda n, device, batch: (torch.rand(n, 12, 4, device=device), batch[1]),
            "score": lambda D, x, z, batch: D(x, batch[1]),
        },
    ),
    Upstream(
        "agrimgupta92/sgan", "691231e1adb6a344c7bcea9ebf2534518b226ead", "MIT", "trajectories, time first", trajectories,
        lambda n, batch: (batch[0], batch[2], batch[6]), lambda G, z, batch: G(*z).transpose(0, 1),
        lambda batch: batch[3].transpose(0, 1), lambda D, x, b: D(None, torch.cat([b[2], x.transpose(0, 1)]), b[6]),
        adapter={
            "real": lambda batch: batch[3].transpose(0, 1),
            "latent": lambda n, device, batch: (batch[0], batch[2], batch[6]),
            "generate": lambda G, z: G(*z).transpose(0, 1),
            "score": lambda D, x, z, batch: D(None, torch.cat([batch[2], x.transpose(0, 1)]), batch[6]),
        },
    ),
    Upstream(
        "caogang/wgan-gp", "ae47a185ed2e938c39cf3eb2f06b32dc1b6a2064", "MIT", "characters, one-hot", language, normal(128),
        real=itself, d_loss=wasserstein,
    ),
]  # fmt: skip
