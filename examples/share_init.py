"""Warm up once for others to start from: ``hf auth login``, then ``python -m examples.share_init user/digits-init``.

The networks are those of ``examples/sngan_conditional``. Weights, card and picture go to the Hub in one commit.
"""

from __future__ import annotations

import argparse

from torch.utils.data import DataLoader

import coopinit_plugin
from examples.sngan_conditional.data import Digits
from examples.sngan_conditional.networks import pair


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.share_init", description=__doc__)
    parser.add_argument("repo_id", nargs="?", help="where the init goes, user/name; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--smoke", action="store_true", help="5 iterations; without a repo_id only saved")
    options = parser.parse_args()
    if options.repo_id is None and not options.smoke:
        parser.error("name the repository, user/name")

    netG, netD = pair(seed=0)
    loader = DataLoader(Digits().dataset, 64, shuffle=True, drop_last=True)
    config = coopinit_plugin.WarmStartConfig(handover="hinge", iterations=5 if options.smoke else "auto")
    result = coopinit_plugin.warm_start(netG, netD, loader, config=config)
    if options.repo_id is None:
        result.save_pretrained("runs/share_init")
        print("Saved. Start from it: python -m examples.start_from_init runs/share_init")
        return
    result.push_to_hub(options.repo_id, private=options.private, model_card_kwargs={"license": "cc-by-4.0"})
    print(f"Pushed. Start from it: python -m examples.start_from_init {options.repo_id}")


if __name__ == "__main__":
    main()
