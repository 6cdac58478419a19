"""Recipes for public codebases: on a made-up checkout, and what all that are committed have in common."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from examples.upstream import check
from examples.upstream.recipe import FOLDER, Recipe, Refused, fingerprint, recipes, recognise

CODE = """def main():
    netG, netD = make()  # both

    # the loop
    for epoch in range(5):  # as long as it takes
        step()
"""
ADDED = "    import coopinit_plugin\n    coopinit_plugin.warm_start(netG, netD, loader)\n"
WARM = CODE.replace("    for", ADDED + "    for")
HEAD = f"""Codebase: someone/gan
Commit: 0123456789abcdef
Licence: MIT
Known-by: src/train.py setup.py
Between: {fingerprint("    netG, netD = make()")} {fingerprint("    for epoch in range(5):")}
Place: right before the loop
Watch: the weather

"""
LINES = "".join(f"+{line}\n" for line in ADDED.splitlines())
PATCH = "--- a/src/train.py\n+++ b/src/train.py\n@@ -4,0 +5,2 @@\n" + LINES


@pytest.fixture
def checkout(tmp_path) -> Path:
    made = tmp_path / "gan"
    (made / "src").mkdir(parents=True)
    (made / "src/train.py").write_text(CODE)
    (made / "setup.py").write_text("")
    return made


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    file = tmp_path / "someone.patch"
    file.write_text(HEAD + PATCH)
    return Recipe.read(file)


@pytest.mark.parametrize("repository", [None, ".", ".."], ids=["a plain folder", "a clone", "inside a repository"])
@pytest.mark.parametrize("above", ["", "import torch\n\n\n"])
def test_the_lines_go_to_their_place_wherever_it_is_and_come_out_again(checkout, recipe, above, repository):
    if repository:
        subprocess.run(["git", "init", "-q", repository], cwd=checkout, check=True)
    file = checkout / "src/train.py"
    file.write_text(above + CODE)
    at = above.count("\n") + 5
    assert recipe.apply(checkout, dry_run=True) == f"2 lines would be added to src/train.py, line {at} on."
    assert file.read_text() == above + CODE
    assert recipe.apply(checkout) == f"2 lines added to src/train.py, line {at} on."
    assert file.read_text() == above + WARM
    with pytest.raises(Refused, match="has the lines already"):
        recipe.apply(checkout)
    assert recipe.apply(checkout, undo=True, dry_run=True).startswith("2 lines would be taken out of src/train.py")
    assert file.read_text() == above + WARM
    recipe.apply(checkout, undo=True)
    assert file.read_text() == above + CODE
    with pytest.raises(Refused, match="not there"):
        recipe.apply(checkout, undo=True)


def test_lines_that_end_as_on_windows(checkout, recipe):
    file = checkout / "src/train.py"
    file.write_bytes(CODE.replace("\n", "\r\n").encode())
    recipe.apply(checkout)
    compile(file.read_bytes(), "train.py", "exec")
    assert "warm_start(netG" in file.read_text()
    recipe.apply(checkout, undo=True)
    assert file.read_bytes() == CODE.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("step()\n", "no longer there"),
        (CODE.replace("# the loop", "netD = other()"), "no longer there"),
        (CODE.replace("    ", "        "), "no longer there"),
        (CODE + CODE, "there 2 times"),
        (WARM.replace("loader)", "mine)"), "no longer there"),
    ],
    ids=["gone", "a line between", "deeper", "twice", "lines of the user's"],
)
@pytest.mark.parametrize("undo", [False, True])
def test_a_place_that_has_changed_is_refused_with_what_to_do_by_hand(checkout, recipe, code, found, undo):
    (checkout / "src/train.py").write_text(code)
    with pytest.raises(Refused) as refused:
        recipe.apply(checkout, undo=undo)
    for words in (found, "since 0123456789", "By hand, in src/train.py, right before the loop", "warm_start(netG"):
        assert words in str(refused.value)
    assert (checkout / "src/train.py").read_text() == code


def test_without_git_nothing_is_written(checkout, recipe, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refused, match=r"git is needed[^\0]*By hand, in src/train.py"):
        recipe.apply(checkout)
    assert (checkout / "src/train.py").read_text() == CODE


def test_a_file_that_its_licence_leaves_to_the_user_is_never_written(checkout, tmp_path):
    file = tmp_path / "someone.txt"
    file.write_text(HEAD + LINES)
    recipe, code = Recipe.read(file), checkout / "src/train.py"
    for text, found in ((CODE, "They go before line 5"), (WARM, "They are there, from line 5 on")):
        code.write_text(text)
        with pytest.raises(Refused, match=found + r"[^\0]*By hand, in src/train.py"):
            recipe.apply(checkout)
        assert code.read_text() == text


def test_in_the_shell(checkout, recipe, monkeypatch, capsys):
    monkeypatch.setattr(check, "recipes", lambda: [recipe])
    check.main([str(checkout), "--dry-run"])
    assert (checkout / "src/train.py").read_text() == CODE
    check.main([str(checkout)])
    assert (checkout / "src/train.py").read_text() == WARM
    assert "someone/gan (made for 0123456789)\n2 lines added" in capsys.readouterr().out
    check.main([str(checkout), "--undo"])
    assert (checkout / "src/train.py").read_text() == CODE
    with pytest.raises(SystemExit) as ended:
        check.main([str(checkout), "--undo"])
    assert ended.value.code == 2
    assert "The lines are not there." in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused_with_what_there_is(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        check.main([str(tmp_path)])
    assert ended.value.code == 2
    assert re.search("none of the codebases.*pytorch/examples, dcgan", capsys.readouterr().err)


def test_the_codebase_with_more_of_its_files_there_is_meant(checkout, recipe):
    other = Recipe(**{**vars(recipe), "codebase": "another/gan", "known_by": ("src/train.py",)})
    assert recognise(checkout, [other, recipe]) is recipe


def test_two_that_fit_as_well_are_not_guessed_between(checkout, recipe, monkeypatch, capsys):
    other = Recipe(**{**vars(recipe), "name": "another", "codebase": "another/gan"})
    monkeypatch.setattr(check, "recipes", lambda: [other, recipe])
    with pytest.raises(SystemExit) as ended:
        check.main([str(checkout)])
    assert ended.value.code == 2
    assert "--recipe another (another/gan) or --recipe someone (someone/gan)" in capsys.readouterr().err
    assert (checkout / "src/train.py").read_text() == CODE
    check.main([str(checkout), "--recipe", "someone"])
    assert (checkout / "src/train.py").read_text() == WARM


@pytest.mark.parametrize(
    ("networks", "name"),
    [
        (["networks.py"], "nvlabs_stylegan2_ada"),
        (["networks_stylegan2.py", "networks_stylegan3.py"], "nvlabs_stylegan3"),
    ],
)
def test_stylegan3_is_not_taken_for_its_forerunner(tmp_path, networks, name):
    (tmp_path / "training").mkdir()
    for file in ["training_loop.py", "augment.py", "dataset.py", "loss.py", *networks]:
        (tmp_path / "training" / file).write_text("")
    assert recognise(tmp_path, recipes()).name == name


def test_all_recipes_are_listed_in_the_readme():
    told = (FOLDER.parent / "README.md").read_text()
    for recipe in recipes():
        assert f"](recipes/{recipe.name}." in told
        assert recipe.commit[:7] in told


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_is_at_most_four_added_lines_and_none_of_upstreams(recipe, tmp_path):
    assert 1 <= len(recipe.lines) <= 4
    assert any("warm_start(" in line for line in recipe.lines)
    assert re.fullmatch("[0-9a-f]{40}", recipe.commit)
    (file,) = FOLDER.glob(f"{recipe.name}.*")
    head, _, patch = file.read_text().partition("\n\n")
    assert "\nLicence: " in head
    compile("if True:\n" + "\n".join(" " + line for line in recipe.lines), recipe.name, "exec")
    if recipe.by_hand:
        assert all(line.startswith("+ ") for line in patch.splitlines())
        return
    name = recipe.known_by[0]
    old, new, hunk, *added = patch.splitlines()
    assert (old, new) == (f"--- a/{name}", f"+++ b/{name}")
    at = int(re.fullmatch(rf"@@ -(\d+),0 \+\d+,{len(added)} @@", hunk)[1])
    assert added == [f"+{line}" for line in recipe.lines]
    target = tmp_path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{line}\n" for line in range(at + 1)))
    shutil.copy(file, tmp_path / "recipe.patch")
    subprocess.run(["git", "apply", "--unidiff-zero", "recipe.patch"], cwd=tmp_path, check=True)
    assert target.read_text().splitlines()[at : at + len(added) + 1] == [*recipe.lines, str(at)]


def test_the_licence_that_forbids_it_has_no_patch():
    assert {recipe.name for recipe in recipes() if recipe.by_hand} == {"nvlabs_stylegan2_ada", "nvlabs_stylegan3"}
