"""Images from noise, with labels or without."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

from coopinit_plugin import presets
from tests.upstream.entry import (
    N,
    Upstream,
    batches,
    definitions,
    hinge,
    importing,
    itself,
    labelled,
    module,
    normal,
    undone,
    wasserstein,
)


def own(preset: Any) -> dict[str, Any]:
    """What a preset sets: one line for the user."""
    return {"preset": preset}


def examples(folder: Path) -> Any:
    script = definitions(folder / "dcgan/main.py", nz=100, ngf=8, ndf=8, nc=3)
    G, D = script["Generator"](0), script["Discriminator"](0)
    G.apply(script["weights_init"]), D.apply(script["weights_init"])
    return G, D, labelled(3, 64, 64)


def huggan(folder: Path) -> Any:
    made = definitions(folder / "huggan/pytorch/dcgan/modeling_dcgan.py", HugGANModelHubMixin=object)
    G, D = made["Generator"](3, 100, 8), made["Discriminator"](3, 8)
    return G, D, [{"pixel_values": x} for x in batches(3, 64, 64)]


def lightning(folder: Path) -> Any:
    path = folder / "examples/pytorch/domain_templates/generative_adversarial_net.py"
    script = definitions(path, LightningModule=nn.Module)
    return script["Generator"](100, (1, 28, 28)), script["Discriminator"]((1, 28, 28)), labelled(1, 28, 28)


def rosinality(folder: Path) -> Any:
    with importing(folder, ("op",)):
        made = importlib.import_module("model")
    ops = definitions(folder / "op/upfirdn2d.py")
    made.upfirdn2d = lambda x, kernel, up=1, down=1, pad=(0, 0): ops["upfirdn2d_native"](
        x, kernel, up, up, down, down, pad[0], pad[1], pad[0], pad[1]
    )
    made.FusedLeakyReLU = definitions(folder / "op/fused_act.py")["FusedLeakyReLU"]
    made.fused_leaky_relu = definitions(folder / "op/fused_act.py")["fused_leaky_relu"]
    made.conv2d_gradfix = torch.nn.functional
    return (
        made.Generator(8, 32, 1, channel_multiplier=1),
        made.Discriminator(8, channel_multiplier=1),
        batches(3, 8, 8, n=4),
    )


def ada(c_dim: int) -> Any:
    def make(folder: Path) -> Any:
        with importing(folder, ("requests",)):
            made = importlib.import_module("training.networks")
            both = {"c_dim": c_dim, "img_resolution": 16, "img_channels": 3}
            narrow = {"channel_base": 256, "channel_max": 16}
            G = made.Generator(z_dim=32, w_dim=32, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=narrow, **both)
            D = made.Discriminator(**narrow, **both)
        labels = torch.eye(c_dim)[torch.arange(N) % c_dim] if c_dim else torch.zeros(N, 0)
        loader = [(torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8), labels) for _ in range(2)]
        return G.requires_grad_(False), D.requires_grad_(False), loader

    return make


def ada_latent(n: int, batch: Any) -> Any:
    return torch.randn(n, 32), batch[1]


def bytes_scaled(batch: Any) -> Any:
    return batch[0].to(torch.float32) / 127.5 - 1


def r3gan(folder: Path) -> Any:
    with importing(folder, ("requests",)):
        made = importlib.import_module("training.networks")
        for name in ("Networks", "Resamplers", "FusedOperators"):
            part = importlib.import_module(f"R3GAN.{name}")
            for kind in [key for key in vars(part) if key.endswith("CUDA")]:
                for user in (part, importlib.import_module("R3GAN.Networks")):
                    setattr(user, kind.removesuffix("CUDA"), getattr(part, kind.removesuffix("CUDA") + "Reference"))
        stages = {"WidthPerStage": [16, 16], "CardinalityPerStage": [4, 4], "BlocksPerStage": [1, 1]}
        stages |= {"ExpansionFactor": 2, "FP16Stages": []}
        G = made.Generator(NoiseDimension=8, c_dim=0, img_resolution=8, **stages)
        D = made.Discriminator(c_dim=0, img_resolution=8, **stages)
    loader = [(torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8), torch.zeros(N, 0)) for _ in range(2)]
    return G, D, loader


def mimicry(kind: str, conditional: bool = False) -> Any:
    def make(folder: Path) -> Any:
        family, name = kind.split(".")
        made = module(
            folder,
            f"torch_mimicry.nets.{family}.{family}_32",
            ("tensorboard", "torch.utils.tensorboard", "requests", "skimage", "tensorflow"),
        )
        more = {"num_classes": 10} if conditional else {}
        G = getattr(made, f"{name}Generator32")(nz=16, ngf=16, **more)
        return G, getattr(made, f"{name}Discriminator32")(ndf=16, **more), labelled(3, 32, 32)

    return make


def biggan(folder: Path) -> Any:
    made = module(folder, "BigGAN")
    both = {"resolution": 32, "n_classes": 10, "G_shared": True, "skip_init": False}
    G = made.Generator(G_ch=8, dim_z=20, shared_dim=16, G_attn="0", **both)
    D = made.Discriminator(D_ch=8, D_attn="0", resolution=32, n_classes=10)
    return G, D, labelled(3, 32, 32)


class Both(nn.Module):
    """The six lines of the presets' documentation, with the loop's own way from styles to image."""

    def __init__(self, S: nn.Module, G: nn.Module) -> None:
        super().__init__()
        self.S, self.G = S, G

    def forward(self, z: Any, noise: Any) -> Any:
        return self.G(self.S(z)[:, None].expand(-1, self.G.num_layers, -1), noise)


def lucidrains(folder: Path) -> Any:
    made = definitions(folder / "stylegan2_pytorch/stylegan2_pytorch.py", filter2d=lambda x, f, normalized: x)
    S, G = made["StyleVectorizer"](32, 2), made["Generator"](32, 32, network_capacity=2)
    return Both(S, G), made["Discriminator"](32, network_capacity=2), [(x + 1) / 2 for x in batches(3, 32, 32)]


def lightweight(folder: Path) -> Any:
    path = folder / "lightweight_gan/lightweight_gan.py"
    made = definitions(path, filter2d=lambda x, f, normalized: x, norm_class=nn.BatchNorm2d, Blur=nn.Identity)
    both = {"image_size": 64, "fmap_max": 16, "attn_res_layers": []}
    return (
        made["Generator"](latent_dim=32, **both),
        made["Discriminator"](**both),
        [(x + 1) / 2 for x in batches(3, 64, 64, n=2)],
    )


def lucid_score(D: Any, x: Any, batch: Any) -> Any:
    large, small, _ = D(x)
    return large.flatten(1).mean(1) + small.flatten(1).mean(1)


def low(loss: Any) -> Any:
    return lambda real, fake: loss(-real, -fake)


def erik(name: str, **given: Any) -> Any:
    """PyTorch-GAN: each a script that trains as soon as it is imported."""

    def make(folder: Path) -> Any:
        opt = SimpleNamespace(
            latent_dim=20, img_size=32, channels=1, n_classes=10, code_dim=2, sample_interval=1, **given
        )
        script = definitions(
            folder / f"implementations/{name}/{name}.py",
            opt=opt,
            img_shape=(1, 32, 32),
            cuda=False,
            np=__import__("numpy"),
        )
        G, D = script["Generator"](), script["Discriminator"]()
        if "weights_init_normal" in script:
            G.apply(script["weights_init_normal"]), D.apply(script["weights_init_normal"])
        return G, D, labelled(1, 32, 32)

    return make


def probability(pick: Any = lambda out: out) -> Any:
    return lambda D, x, batch: undone(pick(D(x)))


def first(out: Any) -> Any:
    return out[0]


def znxlwm(name: str) -> Any:
    def make(folder: Path) -> Any:
        made = definitions(folder / f"{name}.py", utils=module(folder, "utils", ("imageio",)))
        more = {"class_num": 10} if name == "CGAN" else {}
        both = {"input_size": 32, **more}
        return made["generator"](20, 1, **both), made["discriminator"](1, 1, **both), labelled(1, 32, 32)

    return make


def planes(batch: Any) -> Any:
    return one_hot(batch[1], 10).float()[:, :, None, None].expand(-1, -1, 32, 32)


def stability(folder: Path) -> Any:
    made = module(folder, "gan_training.models.resnet")
    both = {"nlabels": 10, "size": 16, "embed_size": 8, "nfilter": 4}
    return made.Generator(12, **both), made.Discriminator(12, **both), labelled(3, 16, 16)


def attention(folder: Path) -> Any:
    made = module(folder, "sagan_models")
    return made.Generator(N, 64, 16), made.Discriminator(N, 64), labelled(3, 64, 64)


def cosgrove(name: str) -> Any:
    def make(folder: Path) -> Any:
        made = module(folder, name)
        return made.Generator(16), made.Discriminator(), labelled(3, 32, 32)

    return make


def arjovsky(folder: Path) -> Any:
    made = module(folder, "models.dcgan")
    return made.DCGAN_G(32, 16, 3, 8, 0), made.DCGAN_D(32, 16, 3, 8, 0), labelled(3, 32, 32)


def clip(D: nn.Module) -> None:
    for parameter in D.parameters():
        parameter.data.clamp_(-0.01, 0.01)


def studio(method: str) -> Any:
    def make(folder: Path) -> Any:
        with importing(folder / "src", ("wandb", "h5py", "ninja", "seaborn", "pandas")):
            ops = importlib.import_module("utils.ops")
            made = importlib.import_module("models.deep_conv")
        MODULES = SimpleNamespace(
            **{
                f"{net}_{kind}": getattr(ops, kind)
                for net in "gd"
                for kind in ("conv2d", "deconv2d", "linear", "embedding")
            },
            g_bn=ops.ConditionalBatchNorm2d,
            d_bn=ops.batchnorm_2d,
            g_act_fn=nn.ReLU(inplace=True),
            d_act_fn=nn.LeakyReLU(0.1, inplace=True),
        )
        both = {"apply_attn": False, "num_classes": 10, "mixed_precision": False, "MODULES": MODULES}
        both["MODEL"] = SimpleNamespace(info_type="N/A", g_info_injection="N/A")
        G = made.Generator(16, 16, 32, 8, attn_g_loc=[], g_cond_mtd="cBN", g_init="ortho", g_depth=None, **both)
        D = made.Discriminator(
            img_size=32, d_conv_dim=8, apply_d_sn=False, attn_d_loc=[], d_cond_mtd=method, aux_cls_type="N/A",
            d_embed_dim=16, normalize_d_embed=False, d_init="ortho", d_depth=None, **both,
        )  # fmt: skip
        return G, D, labelled(3, 32, 32)

    return make


def zoo(folder: Path) -> Any:
    made = module(folder, "models.networks.progressive_conv_net")
    G, D = made.GNet(16, 16, leakyReluLeak=0.2), made.DNet(16, leakyReluLeak=0.2)
    G.addScale(8), D.addScale(8)
    return G, D, labelled(3, 8, 8)


def scales(folder: Path) -> Any:
    with importing(folder / "sourcecode"):
        made = importlib.import_module("MSG_GAN.GAN")
        return made.Generator(4, 16), made.Discriminator(4, 16), batches(3, 32, 32)


def pyramid(batch: Any) -> Any:
    """As its training loop makes it: the image and its averages, smallest first."""
    return [*[nn.functional.avg_pool2d(batch, 2**i) for i in range(3, 0, -1)], batch]


def projected(folder: Path) -> Any:
    with importing(folder, ("feature_networks",)):
        G = importlib.import_module("pg_modules.networks_fastgan").Generator(
            z_dim=32, img_resolution=256, ngf=2, lite=True
        )
        D = importlib.import_module("pg_modules.discriminator").MultiScaleD(
            channels=[4, 4], resolutions=[16, 8], num_discs=2
        )
    return G, D, [(torch.randint(0, 256, (N, 3, 256, 256), dtype=torch.uint8), torch.zeros(N, 0)) for _ in range(2)]


def with_labels(D: Any, x: Any, batch: Any) -> Any:
    return D(x, batch[1])


def noise_and_labels(size: int) -> Any:
    return lambda n, batch: (torch.randn(n, size), batch[1])


def spread(G: Any, z: Any, batch: Any) -> Any:
    return G(*z)


EXAMPLES = ("pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8", "BSD-3")
ADA = ("NVlabs/stylegan2-ada-pytorch", "d72cc7d041b42ec8e806021a205ed9349f87c6a4", "NVIDIA, non-commercial")
MIMICRY = ("kwotsin/mimicry", "a7fda06c4aff1e6af8dc4c4a35ed6636e434c766", "MIT")
ERIK = ("eriklindernoren/PyTorch-GAN", "36d3c77e5ff20ebe0aeefd322326a134a279b93e", "MIT")
ZNX = ("znxlwm/pytorch-generative-model-collections", "0d183bb5ea2fbe069e1c6806c4a9a1fd8e81656f", "")
COSGROVE = ("christiancosgrove/pytorch-spectral-normalization-gan", "12dcf945a6359301d63d1e0da3708cd0f0590b19", "MIT")
STUDIO = ("POSTECH-CVLab/PyTorch-StudioGAN", "947b35e9835b67860fdce44d337f6d7fee7c8db3", "MIT and others")


def relativistic(real: Any, fake: Any) -> Any:
    return softplus(fake - real).mean()


def uniform(n: int, device: Any, batch: Any) -> Any:
    return torch.rand(n, 20, device=device)


ENTRIES = [
    Upstream(*EXAMPLES, "dcgan", examples, normal(100, 1, 1), logit=probability()),
    Upstream(
        "huggingface/community-events", "a2d9115007c7e44b4389e005ea5c6163ae5b0470", "", "dcgan", huggan,
        normal(100, 1, 1), real=lambda batch: batch["pixel_values"], logit=probability(),
    ),
    Upstream(
        "Lightning-AI/pytorch-lightning", "7f0c3436cd3f6ad3753125672024fc415cbcb414", "Apache-2.0", "GAN template",
        lightning, normal(100),
    ),
    Upstream(
        "rosinality/stylegan2-pytorch", "bef283a1c24087da704d16c30abc8e36e63efa0e", "MIT", "StyleGAN2", rosinality,
        lambda n, batch: [torch.randn(n, 32)], lambda G, z, batch: G(z)[0], itself,
        adapter=own(presets.rosinality_stylegan2(32)),
    ),
    Upstream(*ADA, "no labels", ada(0), ada_latent, spread, bytes_scaled, with_labels, adapter=own(presets.stylegan2_ada())),
    Upstream(*ADA, "labels", ada(3), ada_latent, spread, bytes_scaled, with_labels, adapter=own(presets.stylegan2_ada())),
    Upstream(
        "brownvc/R3GAN", "19a7ddf463fbac2bd39b4c1c73d63f1c441c7403", "", "no labels", r3gan,
        lambda n, batch: (torch.randn(n, 8), batch[1]), spread, bytes_scaled, with_labels, relativistic,
        adapter=own(presets.r3gan()),
    ),
    Upstream(*MIMICRY, "SNGAN", mimicry("sngan.SNGAN"), normal(16), d_loss=hinge, adapter=own(presets.mimicry())),
    Upstream(
        *MIMICRY, "SSGAN, tuple of D", mimicry("ssgan.SSGAN"), normal(16), logit=lambda D, x, batch: D(x)[0],
        d_loss=hinge, adapter=own(presets.mimicry()),
    ),
    Upstream(
        *MIMICRY, "cGAN with projection", mimicry("cgan_pd.CGANPD", True), noise_and_labels(16), spread,
        logit=with_labels, d_loss=hinge, adapter=own(presets.mimicry()),
    ),
    Upstream(
        "ajbrock/BigGAN-PyTorch", "98459431a5d618d644d54cd1e9fceb1e5045648d", "MIT", "G_shared", biggan,
        noise_and_labels(20), lambda G, z, batch: G(z[0], G.shared(z[1])), logit=with_labels, d_loss=hinge,
        adapter=own(presets.biggan(20)),
    ),
    Upstream(
        "lucidrains/stylegan2-pytorch", "ce7f830bc10d037cddc75d6166904baf07945cf6", "MIT", "S and G as one", lucidrains,
        lambda n, batch: (torch.randn(n, 32), torch.rand(n, 32, 32, 1)), spread, itself, lambda D, x, batch: D(x)[0],
        low(hinge), False, adapter=own(presets.lucidrains_stylegan2(32)), extra=6,
    ),
    Upstream(
        "lucidrains/lightweight-gan", "efbec4570b7cb715e05058eccc518dc1a5753523", "MIT", "64²", lightweight, normal(32),
        real=itself, logit=lucid_score, d_loss=low(hinge), high=False, adapter=own(presets.lucidrains_lightweight_gan()),
    ),
    Upstream(*ERIK, "gan", erik("gan"), normal(20), logit=probability()),
    Upstream(*ERIK, "acgan", erik("acgan"), noise_and_labels(20), spread, logit=probability(first)),
    Upstream(
        *ERIK, "cgan", erik("cgan"), noise_and_labels(20), spread, logit=with_labels,
        d_loss=lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
    ),
    Upstream(
        *ERIK, "infogan", erik("infogan"), lambda n, batch: (torch.randn(n, 20), one_hot(batch[1], 10).float(),
        torch.rand(n, 2) * 2 - 1), spread, logit=lambda D, x, batch: D(x)[0],
        d_loss=lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
        adapter={
            "latent": lambda n, device, batch: (
                torch.randn(n, 20, device=device), one_hot(batch[1], 10).float(), torch.rand(n, 2, device=device) * 2 - 1
            ),
        },
    ),
    Upstream(*ERIK, "sgan", erik("sgan", num_classes=10), normal(20), logit=probability(first)),
    Upstream(
        *ERIK, "wgan", erik("wgan"), normal(20), d_loss=wasserstein, adapter={"after_d_step": clip},
    ),
    Upstream(
        *ERIK, "began", erik("began"), normal(20), logit=lambda D, x, batch: (D(x) - x).abs().flatten(1).mean(1),
        d_loss=lambda real, fake: real.mean() - 0.5 * fake.mean(), high=False,
        adapter={"score": lambda D, x, z, batch: (D(x) - x).abs().flatten(1).mean(1), "real_is_high": False},
    ),
    Upstream(
        *ZNX, "CGAN", znxlwm("CGAN"), lambda n, batch: (torch.rand(n, 20), one_hot(batch[1], 10).float()), spread,
        logit=lambda D, x, batch: torch.logit(D(x, planes(batch))),
        adapter={
            "latent": lambda n, device, batch: (torch.rand(n, 20, device=device), one_hot(batch[1], 10).float()),
            "score": lambda D, x, z, batch: D(x, one_hot(batch[1], 10).float()[:, :, None, None].expand(-1, -1, 32, 32)),
        },
    ),
    Upstream(
        *ZNX, "WGAN", znxlwm("WGAN"), lambda n, batch: torch.rand(n, 20), d_loss=wasserstein,
        adapter={"latent": uniform, "after_d_step": clip},
    ),
    Upstream(
        "LMescheder/GAN_stability", "c1f64c9efeac371453065e5ce71860f4c2b97357", "MIT", "resnet", stability,
        noise_and_labels(12), spread, logit=with_labels,
    ),
    Upstream(
        "heykeetae/Self-Attention-GAN", "8714a54ba5027d680190791ba3a6bb08f9c9a129", "", "64²", attention, normal(16),
        lambda G, z, batch: G(z)[0], logit=lambda D, x, batch: D(x)[0], d_loss=hinge,
    ),
    Upstream(*COSGROVE, "model", cosgrove("model"), normal(16), d_loss=hinge),
    Upstream(*COSGROVE, "model_resnet", cosgrove("model_resnet"), normal(16), d_loss=hinge),
    Upstream(
        "martinarjovsky/WassersteinGAN", "f7a01e82007ea408647c451b9e1c8f1932a3db67", "BSD-3", "DCGAN", arjovsky,
        normal(16, 1, 1), d_loss=lambda real, fake: real.mean() - fake.mean(), high=False,
        adapter={"d_loss": lambda f_real, f_fake: f_real.mean() - f_fake.mean(), "after_d_step": clip},
    ),
    Upstream(
        *STUDIO, "projection", studio("PD"), noise_and_labels(16), spread, d_loss=hinge,
        logit=lambda D, x, batch: D(x, batch[1])["adv_output"],
    ),
    Upstream(
        *STUDIO, "auxiliary classifier", studio("AC"), noise_and_labels(16), spread, d_loss=hinge,
        logit=lambda D, x, batch: D(x, batch[1])["adv_output"],
    ),
    Upstream(
        "facebookresearch/pytorch_GAN_zoo", "b75dee40918caabb4fe7ec561522717bf096a8cb", "BSD-3", "progressive", zoo,
        normal(16), logit=lambda D, x, batch: D(x)[:, 0], d_loss=wasserstein,
    ),
    Upstream(
        "akanimax/BMSG-GAN", "863b1f370c12010a57812fb55e2f1b625e64e5a4", "MIT", "three scales", scales, normal(16),
        real=pyramid, d_loss=hinge,
        adapter={"real": pyramid},
    ),
]  # fmt: skip
