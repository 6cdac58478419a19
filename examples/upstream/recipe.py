"""A recipe: the lines that give a public codebase a warm start, and the line before which they go."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "recipes"
HEADER = re.compile(r"^([A-Z][a-z-]+): +(.*)$", re.MULTILINE)
HUNK = re.compile(r"^@@ -\d+,0 \+\d+(?:,\d+)? @@.*$", re.MULTILINE)


class Refused(Exception):
    """The checkout is not what the recipe was made for; says what to do by hand."""


@dataclass(frozen=True)
class Recipe:
    """A patch that only adds lines, with a head that says what it is for.

    Attributes:
        name: Of its file.
        codebase: Whose code it is for.
        commit: The upstream commit it was made for.
        known_by: Files by which a checkout is recognised; the first is the one that is changed.
        before: The fingerprint of the line before which the lines go. It is looked for anew in every checkout, so that
            the recipe goes on working where code above it has changed.
        place: That line's place in words.
        by_hand: Whether the licence leaves it to you to change the file.
        patch: The patch, as ``git apply --unidiff-zero`` takes it.
    """

    name: str
    codebase: str
    commit: str
    known_by: tuple[str, ...]
    before: str
    place: str
    by_hand: bool
    patch: str

    @classmethod
    def read(cls, path: Path) -> Recipe:
        text = path.read_text(encoding="utf-8")
        head, start, patch = text.partition("--- ")
        told = dict(HEADER.findall(head))
        files = tuple(told["Known-by"].split())
        return cls(
            path.stem,
            told["Codebase"],
            told["Commit"],
            files,
            told["Before"],
            told["Place"],
            told.get("Mode") == "by hand",
            start + patch,
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
        if self.by_hand:
            raise Refused(f"{self.codebase} does not permit its files to be changed for you.\n{self.to_do}")
        at, there = self._find(checkout)
        if there != undo:
            raise Refused(f"{self.known_by[0]} has the lines already." if there else "The lines are not there.")
        at -= len(self.lines) if undo else 0
        patch = HUNK.sub(f"@@ -{at},0 +{at + 1},{len(self.lines)} @@", self.patch)
        for check in (["--check"], []) if not dry_run else (["--check"],):
            command = ["git", "apply", "--unidiff-zero", *check, *(["--reverse"] if undo else [])]
            done = subprocess.run(command, cwd=checkout, input=patch.encode(), capture_output=True)
            if done.returncode:
                raise Refused(f"git apply refused: {done.stderr.decode().strip()}\n{self.to_do}")
        verb = "would be " * dry_run + ("taken out of" if undo else "added to")
        return f"{len(self.lines)} lines {verb} {self.known_by[0]}, line {at + 1} on."

    @property
    def to_do(self) -> str:
        """What a person has to do."""
        lines = "\n".join(f"    {line}" for line in self.lines)
        return f"By hand, in {self.known_by[0]}, {self.place}:\n\n{lines}"

    def _find(self, checkout: Path) -> tuple[int, bool]:
        """(How many lines stand before the place, whether the last of them are the recipe's)."""
        lines = (checkout / self.known_by[0]).read_text(encoding="utf-8").splitlines()
        places = [index for index, line in enumerate(lines) if fingerprint(line) == self.before]
        if len(places) != 1:
            found = "is not there" if not places else f"is there {len(places)} times"
            raise Refused(
                f"{self.known_by[0]} has changed since {self.commit[:10]}: the line that the recipe goes by {found}. "
                f"Nothing was changed.\n{self.to_do}"
            )
        return places[0], lines[max(places[0] - len(self.lines), 0) : places[0]] == self.lines


def fingerprint(line: str) -> str:
    """Of a line of code, whatever its indentation and its comment: their code itself is not kept here."""
    code = line.partition(" #")[0].strip()
    return hashlib.sha256(code.encode()).hexdigest()[:16] if code else ""


def recipes(folder: Path = FOLDER) -> list[Recipe]:
    """All there are."""
    return [Recipe.read(path) for path in sorted(folder.glob("*.patch"))]


def recognise(checkout: Path, known: list[Recipe]) -> Recipe:
    """The recipe for this checkout.

    Raises:
        Refused: where there is none.
    """
    fitting = [recipe for recipe in known if recipe.fits(checkout)]
    if not fitting:
        names = ", ".join(recipe.codebase for recipe in known)
        raise Refused(f"{checkout} is none of the codebases that there are recipes for: {names}.")
    return max(fitting, key=lambda recipe: len(recipe.known_by))
