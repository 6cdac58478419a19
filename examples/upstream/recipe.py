"""A recipe: the lines that give a public codebase a warm start, and the two lines of code between which they go."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "recipes"
HEADER = re.compile(r"^([A-Z][a-z-]+): +(.*)$", re.MULTILINE)
HUNK = re.compile(r"^@@ -\d+,0 \+\d+(?:,\d+)? @@$", re.MULTILINE)


class Refused(Exception):
    """The checkout is not what the recipe was made for; says what to do by hand."""


@dataclass(frozen=True)
class Recipe:
    """Added lines and a head that says what they are for.

    Attributes:
        name: Of its file.
        codebase: Whose code it is for.
        commit: The upstream commit it was made for.
        known_by: Files by which a checkout is recognised; the first is the one that is changed.
        between: The fingerprints of the line of code above the place and of the one below it. They are looked for anew
            in every checkout, so that the recipe goes on working where other code has changed.
        place: The place in words.
        watch: What to watch.
        patch: As ``git apply --unidiff-zero`` takes it; for a person to write, in a file that is no patch, the lines.
        by_hand: Whether the licence leaves it to you to change the file.
    """

    name: str
    codebase: str
    commit: str
    known_by: tuple[str, ...]
    between: tuple[str, str]
    place: str
    watch: str
    patch: str
    by_hand: bool = False

    @classmethod
    def read(cls, path: Path) -> Recipe:
        head, _, patch = path.read_text(encoding="utf-8").partition("\n\n")
        told = dict(HEADER.findall(head))
        above, below = told["Between"].split()
        return cls(
            path.stem,
            told["Codebase"],
            told["Commit"],
            tuple(told["Known-by"].split()),
            (above, below),
            told["Place"],
            told["Watch"],
            patch,
            by_hand=path.suffix != ".patch",
        )

    @property
    def lines(self) -> list[str]:
        """What is added."""
        return [line[1:] for line in self.patch.splitlines() if line.startswith("+") and not line.startswith("+++")]

    def fits(self, checkout: Path) -> bool:
        """Whether this is the codebase."""
        return all((checkout / file).is_file() for file in self.known_by)

    def apply(self, checkout: Path, *, undo: bool = False, dry_run: bool = False) -> str:
        """Add the lines, or take them away; what was done, in words.

        Raises:
            Refused: where the place is not found, or the lines are (not) there already. Nothing is changed then.
        """
        at, there = self._find(checkout)
        if self.by_hand:
            state = f"They are there, from line {at + 1} on." if there else f"They go before line {at + 1}."
            raise Refused(f"The licence of {self.codebase} leaves it to you to change its files. {state}\n{self.to_do}")
        if there != undo:
            raise Refused(f"{self.known_by[0]} has the lines already." if there else "The lines are not there.")
        self._git_apply(checkout, at, "--check", undo)
        if not dry_run:
            self._git_apply(checkout, at, "", undo)
        verb = "would be " * dry_run + ("taken out of" if undo else "added to")
        return f"{len(self.lines)} lines {verb} {self.known_by[0]}, line {at + 1} on."

    @property
    def to_do(self) -> str:
        """What a person has to do."""
        lines = "\n".join(f"    {line}" for line in self.lines)
        return f"By hand, in {self.known_by[0]}, {self.place}:\n\n{lines}"

    def _find(self, checkout: Path) -> tuple[int, bool]:
        """(How many lines stand before the place, whether the recipe's lines are there)."""
        text = (checkout / self.known_by[0]).read_text(encoding="utf-8", errors="replace")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        found = []
        for below, line in enumerate(lines):
            start = max(below - len(self.lines), 0)
            there = lines[start:below] == self.lines
            at = start if there else below
            if (_last_code(lines[:at]), fingerprint(line)) == self.between:
                found.append((at, there))
        if len(found) != 1:
            how = f"are there {len(found)} times" if found else "are no longer there, one after the other"
            raise Refused(
                f"{self.known_by[0]} has changed since {self.commit[:10]}: the two lines of code between which the "
                f"recipe's lines go {how}. Nothing was changed.\n{self.to_do}"
            )
        return found[0]

    def _git_apply(self, checkout: Path, at: int, check: str, undo: bool) -> None:
        patch = HUNK.sub(f"@@ -{at},0 +{at + 1},{len(self.lines)} @@", self.patch)
        command = ["git", "apply", "--unidiff-zero", *filter(None, [check, "--reverse" * undo])]
        try:
            done = subprocess.run(command, cwd=checkout, input=patch.encode(), capture_output=True)
        except FileNotFoundError as error:
            raise Refused(f"git is needed to apply a patch.\n{self.to_do}") from error
        if done.returncode:
            raise Refused(f"git apply refused: {done.stderr.decode().strip()}\n{self.to_do}")


def fingerprint(line: str) -> str:
    """Of a line of code with its indentation, without its comment: upstream's code itself is not kept here."""
    code = re.sub(r"(^|\s)#.*", "", line).rstrip()
    return hashlib.sha256(code.encode()).hexdigest()[:16] if code else ""


def _last_code(lines: list[str]) -> str:
    """The fingerprint of the last line that is neither empty nor a comment."""
    return next(filter(None, map(fingerprint, reversed(lines))), "")


def recipes(folder: Path = FOLDER) -> list[Recipe]:
    """All there are."""
    return [Recipe.read(path) for path in sorted(folder.iterdir())]


def recognise(checkout: Path, known: list[Recipe]) -> Recipe:
    """The recipe for this checkout.

    Raises:
        Refused: where there is none, or more than one that fits as well.
    """
    fitting = [recipe for recipe in known if recipe.fits(checkout)]
    if not fitting:
        names = ", ".join(recipe.codebase for recipe in known)
        raise Refused(f"{checkout} is none of the codebases that there are recipes for: {names}.")
    most = max(len(recipe.known_by) for recipe in fitting)
    meant = [recipe for recipe in fitting if len(recipe.known_by) == most]
    if len(meant) > 1:
        names = " or ".join(f"--recipe {recipe.name} ({recipe.codebase})" for recipe in meant)
        raise Refused(f"{checkout} may be one of several codebases. Nothing was changed; say which: {names}.")
    return meant[0]
