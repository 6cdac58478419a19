"""Give a checkout of a well-known GAN codebase its warm start, or take it back.

``python -m examples.upstream.check PATH_TO_CHECKOUT`` looks whether the lines of a recipe fit and adds them;
``--dry-run`` only looks, ``--undo`` takes them back. Where they do not fit nothing is changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.upstream.recipe import Refused, recipes, recognise


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.upstream.check", description=__doc__.split("``")[0])
    parser.add_argument("checkout", type=Path, help="the folder of the codebase")
    parser.add_argument("--dry-run", action="store_true", help="only look")
    parser.add_argument("--undo", action="store_true", help="take the lines back")
    parser.add_argument("--recipe", choices=[recipe.name for recipe in recipes()], help="do not guess")
    options = parser.parse_args(arguments)
    known = [recipe for recipe in recipes() if options.recipe in (None, recipe.name)]
    try:
        recipe = recognise(options.checkout, known)
        print(f"{recipe.codebase} (made for {recipe.commit[:10]})")
        print(recipe.apply(options.checkout, undo=options.undo, dry_run=options.dry_run))
        if not options.undo:
            print(f"Watch: {recipe.watch}")
    except Refused as refusal:
        parser.exit(2, f"{refusal}\n")


if __name__ == "__main__":
    main()
