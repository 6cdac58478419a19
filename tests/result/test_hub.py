"""The Hub over real HTTP: huggingface_hub's own client against a server on loopback."""

# ruff: noqa: F811 - hub is a fixture
from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hub_server import ID, Fault, Hub, hub, same  # noqa: F401
from huggingface_hub import HfApi, ModelCard, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from networks import hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot, state_bits
from test_warm_start import FILES, bits, conv_pair, result_of, scrambled

from coopinit_plugin import CoopInitError, WarmStart, warm_start


@pytest.fixture(params=[True, False], ids=["lfs", "regular"])
def lfs(request):
    return request.param


@pytest.fixture
def result():
    return result_of(*mlp_pair())


def warmed(pair=mlp_pair, data=vectors):
    G, D = pair()
    return warm_start(G, D, data(), config=short(), adapter=hooks(), progress=False)


def whole(result: WarmStart, tmp_path: Path) -> None:
    """What a failed push must leave: an object that can be saved, and read again."""
    result.save_pretrained(tmp_path / "rescued")
    assert same(WarmStart.from_pretrained(tmp_path / "rescued"), result)


# --- there and back


@pytest.mark.pictures
def test_push_and_pull(hub, lfs, tmp_path):
    result = warmed()
    pushed = result.push_to_hub(ID)
    files = hub.repos[ID].files()
    assert pushed.oid == hub.repos[ID].branches["main"]
    assert len(hub.repos[ID].commits) == 2  # the empty one and ours
    assert set(files) == {".gitattributes", *FILES, "warm_start.png", "README.md"}
    read = WarmStart.from_pretrained(ID)
    assert same(read, result)
    other = scrambled(mlp_pair)
    read.load_into(*other)
    assert state_bits(*other)[0].values()
    assert bits(other[0].state_dict()["0.weight"]) == bits(result.generator_state["0.weight"])
    read.plot(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == files["warm_start.png"]


def test_pushing_again_unchanged_makes_no_commit(hub, lfs):
    result = warmed()
    result.push_to_hub(ID)
    head = hub.repos[ID].branches["main"]
    result.push_to_hub(ID)
    WarmStart.from_pretrained(ID).push_to_hub(ID)
    assert hub.repos[ID].branches == {"main": head}


def test_pushing_another_one_replaces_it(hub):
    warmed().push_to_hub(ID)
    other = result_of(*mlp_pair(seed=5))
    other.push_to_hub(ID, commit_message="better")
    assert same(WarmStart.from_pretrained(ID), other)


def test_real_samples_stay_at_home_unless_asked_for(hub, tmp_path):
    result = warmed()
    result.save_pretrained(tmp_path / "init")
    local = WarmStart.from_pretrained(tmp_path / "init")
    assert {"real", "before", "after"} <= set(local.samples)
    local.push_to_hub(ID)
    assert "real" in local.samples  # the object keeps its own
    pulled = WarmStart.from_pretrained(ID)
    assert {"before", "after"} <= set(pulled.samples)
    assert not any(name.startswith("real") for name in pulled.samples)
    card = hub.repos[ID].files()["README.md"].decode()
    assert "samples of the training data are not published" in card
    local.push_to_hub(ID, real_samples=True)
    assert "real" in WarmStart.from_pretrained(ID).samples
    assert "Real samples, G before and after" in hub.repos[ID].files()["README.md"].decode()


def test_save_and_push_in_one_call(hub, tmp_path):
    result = warmed()
    result.save_pretrained(tmp_path / "init", push_to_hub=True, repo_id=ID, private=True)
    assert same(WarmStart.from_pretrained(ID), WarmStart.from_pretrained(tmp_path / "init"))
    assert hub.repos[ID].private


def test_a_name_without_its_owner_is_completed(hub, result):
    result.push_to_hub("init")
    assert 'from_pretrained("me/init")' in hub.repos[ID].files()["README.md"].decode()


def test_private_repositories_need_the_token(hub, result, monkeypatch, tmp_path):
    result.push_to_hub(ID, private=True)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RepositoryNotFoundError):
        WarmStart.from_pretrained(ID)
    assert same(WarmStart.from_pretrained(ID, token=hub.token), result)


def test_branches_and_revisions(hub, result):
    result.push_to_hub(ID)
    first = hub.repos[ID].branches["main"]
    HfApi().create_branch(ID, branch="trial")
    other = result_of(*mlp_pair(seed=3))
    other.push_to_hub(ID, branch="trial")
    assert same(WarmStart.from_pretrained(ID), result)
    assert same(WarmStart.from_pretrained(ID, revision="trial"), other)
    assert same(WarmStart.from_pretrained(ID, revision=first), result)
    with pytest.raises(RevisionNotFoundError):
        WarmStart.from_pretrained(ID, revision="nowhere")
    with pytest.raises(HfHubHTTPError):
        other.push_to_hub(ID, branch="nowhere")


def test_pull_requests(hub, result):
    result.push_to_hub(ID)
    other = result_of(*mlp_pair(seed=3))
    commit = other.push_to_hub(ID, create_pr=True)
    assert commit.pr_url.endswith("/discussions/1")
    assert same(WarmStart.from_pretrained(ID), result)
    assert same(WarmStart.from_pretrained(ID, revision="refs/pr/1"), other)


CLIENT = """
import hashlib, sys
import torch
from networks import mlp_pair
from coopinit_plugin import WarmStart
G, D = mlp_pair(seed=99)
WarmStart.from_pretrained(sys.argv[1]).load_into(G, D)
print(*(hashlib.sha256(t.numpy().tobytes()).hexdigest() for n in (G, D) for t in n.state_dict().values()))
"""


def test_a_new_process_gets_the_same_bits(hub, tmp_path):
    result = warmed()
    result.push_to_hub(ID)
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]),
    }
    command = [sys.executable, "-c", CLIENT, ID]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states = [*result.generator_state.values(), *result.discriminator_state.values()]
    assert done.stdout.split() == [hashlib.sha256(value.numpy().tobytes()).hexdigest() for value in states]


def test_the_cache_serves_offline(hub, result, monkeypatch, tmp_path):
    result.push_to_hub(ID)
    WarmStart.from_pretrained(ID)
    asked = len(hub.log)
    assert same(WarmStart.from_pretrained(ID, local_files_only=True), result)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(WarmStart.from_pretrained(ID), result)
    assert len(hub.log) == asked
    with pytest.raises(LocalEntryNotFoundError):
        WarmStart.from_pretrained(ID, cache_dir=tmp_path / "elsewhere")


def test_the_card_is_valid_and_names_the_repository(hub):
    warmed(conv_pair, images).push_to_hub(ID, model_card_kwargs={"license": "mit", "datasets": ["mnist"]})
    assert "POST /api/validate-yaml" in hub.log  # the client asks the Hub before it commits
    card = ModelCard.load(hf_hub_download(ID, "README.md"))
    assert (card.data.license, card.data.library_name) == ("mit", "coopinit-plugin")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert f'WarmStart.from_pretrained("{ID}")' in card.text


def test_a_card_that_the_hub_refuses_is_its_own_error(hub, result, tmp_path):
    with pytest.raises(ValueError, match="must be a string"):
        result.push_to_hub(ID, model_card_kwargs={"license": ["mit"]})
    whole(result, tmp_path)


@pytest.mark.pictures
def test_pushing_sends_hardly_more_than_the_files(hub):
    result = result_of(*mlp_pair(hidden=100_000))
    result.samples = warmed().samples
    result.push_to_hub(ID)
    files = hub.repos[ID].files()
    weights = sum(len(files[name]) for name in FILES[:2])
    assert sum(map(len, files.values())) < 1.05 * weights
    assert hub.received < 1.05 * weights


# --- what goes wrong at the Hub


def test_a_missing_repository(hub):
    with pytest.raises(RepositoryNotFoundError):
        WarmStart.from_pretrained("me/nothing")
    with pytest.raises(HFValidationError):
        WarmStart.from_pretrained("me/no..thing")


@pytest.mark.parametrize(
    "name", ["gone", "gone/", "./gone", "/no/such/init", "a/b/c", "~/init", "not a repo/../id", "", Path("me/init")]
)
def test_a_folder_that_is_not_there_is_said_so_without_asking_the_hub(hub, name):
    with pytest.raises(
        CoopInitError, match=r"is neither a folder here nor .*user/dcgan-init.* from /.*save_pretrained"
    ):
        WarmStart.from_pretrained(name)
    assert hub.log == []


def test_a_name_that_begins_with_a_folder_here_is_a_folder(hub, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoopInitError, match=r"^runs/gone is neither a folder here nor"):
        WarmStart.from_pretrained("runs/gone")
    assert hub.log == []


@pytest.mark.parametrize("name", [ID, "init"])
def test_an_offline_push_says_what_to_check(hub, result, monkeypatch, tmp_path, name):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CoopInitError, match=rf"could not be reached .*nothing was pushed to {name}.*HF_HUB_OFFLINE"):
        result.push_to_hub(name)
    assert hub.log == []
    whole(result, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(hub, name):
    warmed().push_to_hub(ID)
    repo = hub.repos[ID]
    repo.commit({key: value for key, value in repo.files().items() if key != name})
    with pytest.raises(EntryNotFoundError, match=re.escape(name)):
        WarmStart.from_pretrained(ID)


def test_without_a_token_nothing_is_pushed(hub, result, monkeypatch, tmp_path):
    with pytest.raises(HfHubHTTPError, match="401"):
        result.push_to_hub(ID, token="hf_wrong")
    assert hub.repos == {}
    whole(result, tmp_path)


def test_saved_first_then_pushed(hub, result, tmp_path):
    with pytest.raises(HfHubHTTPError, match="401"):
        result.save_pretrained(tmp_path / "init", push_to_hub=True, repo_id=ID, token="hf_wrong")
    assert same(WarmStart.from_pretrained(tmp_path / "init"), result)


def test_a_repository_that_exists_is_pushed_to(hub, result):
    hub.add(ID, {"notes.txt": b"the user's own"})
    result.push_to_hub(ID)  # the Hub answers 409 to its creation
    assert hub.repos[ID].files()["notes.txt"] == b"the user's own"
    assert same(WarmStart.from_pretrained(ID), result)


@pytest.mark.parametrize("kind", [500, "cut"])
def test_an_upload_that_fails_once_goes_through_by_itself_or_when_repeated(hub, result, kind, tmp_path):
    hub.faults = [Fault("PUT", "/lfs/", kind)]
    try:
        result.push_to_hub(ID)
    except Exception as error:  # of huggingface_hub 1.0, which does not try again by itself
        assert "Error while uploading" in str(error)  # noqa: PT017
        assert "config.json" not in hub.repos[ID].files()
        whole(result, tmp_path)
        result.push_to_hub(ID)
    assert hub.faults == []
    assert same(WarmStart.from_pretrained(ID), result)


FAILURES = [(kind, path) for path in ("/preupload/", "/commit/", "repos/create") for kind in (500, "cut", 409)]
FAILURES.remove((409, "repos/create"))  # that it exists is no failure


@pytest.mark.parametrize(("kind", "path"), FAILURES)
def test_a_push_that_fails_leaves_all_as_it_was(hub, result, tmp_path, kind, path):
    warmed().push_to_hub(ID)
    before = dict(hub.repos[ID].branches)
    hub.faults = [Fault("POST", path, kind, times=100)]
    G, D = mlp_pair()
    kept = Snapshot(G, D)
    cut = (CoopInitError, r"could not be reached .*nothing was pushed to me/.*HF_ENDPOINT.*save_pretrained")
    with pytest.raises(HfHubHTTPError if kind != "cut" else cut[0]) as caught:
        result.push_to_hub(ID)
    assert re.search(cut[1] if kind == "cut" else str(kind), str(caught.value))
    assert hub.repos[ID].branches == before
    kept.assert_unchanged()
    whole(result, tmp_path)
    hub.faults = []
    result.push_to_hub(ID)
    assert same(WarmStart.from_pretrained(ID), result)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [500, "cut"])
def test_a_download_that_fails_once_is_repeated_or_an_error(hub, lfs, result, kind, name):
    result.push_to_hub(ID)
    hub.faults = [Fault("GET", "/lfs/" if lfs and name.endswith("safetensors") else name, kind)]
    G, D = scrambled(mlp_pair)
    kept = Snapshot(G, D)
    try:
        read = WarmStart.from_pretrained(ID)
    except Exception as error:
        assert type(error).__module__.split(".")[0] in ("huggingface_hub", "httpx", "httpx2")  # noqa: PT017
        kept.assert_unchanged()
        read = WarmStart.from_pretrained(ID)
    assert hub.faults == []
    assert same(read, result)


# --- what may lie in a repository


def damaged(hub: Hub, change) -> str:
    """The error that a changed repository gives; the networks it was to be loaded into are as before."""
    warmed().push_to_hub(ID)
    repo = hub.repos[ID]
    repo.commit(change(dict(repo.files())))
    with pytest.raises(CoopInitError) as caught:
        WarmStart.from_pretrained(ID)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES[:3])
def test_truncated_tensors(hub, name):
    assert "no whole safetensors file" in damaged(hub, lambda files: {**files, name: files[name][:-7]})


HEADERS = {
    "10 GB": struct.pack("<Q", 10 * 1024**3) + b"{}",
    "longer than the file": struct.pack("<Q", 4096) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"nope",
    "offsets outside": struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8000000000]}}'[:62],
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "empty": b"",
}


@pytest.mark.parametrize("name", FILES[1:3])
@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_safetensors(hub, kind, name):
    message = damaged(hub, lambda files: {**files, name: HEADERS[kind]})
    assert f"{name} is no whole safetensors file" in message


def test_samples_that_are_none_cost_only_the_picture(hub, tmp_path):
    warmed().push_to_hub(ID)
    repo = hub.repos[ID]
    for odd in (torch.zeros(2, 2, 2, 2, 2), torch.zeros(4), torch.zeros(0, 3, 2, 2)):
        repo.commit({**repo.files(), "samples.safetensors": safetensors.torch.save({"before": odd})})
        read = WarmStart.from_pretrained(ID)
        read.load_into(*mlp_pair())
        read.save_pretrained(tmp_path / "init")


CONFIGS = {
    "another library's": b'{"architectures": ["BertModel"], "hidden_size": 768}',
    "deep": b"[" * 100_000,
    "a list": b"[1, 2]",
    "bytes": b"\xff\xfe\x00",
    "a huge number": b'{"config": 1' + b"0" * 5000 + b"}",
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_hostile_json(hub, kind):
    assert "was not written by coopinit_plugin" in damaged(hub, lambda files: {**files, "config.json": CONFIGS[kind]})


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["history"].append(None),
        lambda told: told.update(history={"a": 1}),
        lambda told: told["config"].update(betas=[0.5]),
        lambda told: told["config"].update(seed=True),
        lambda told: told.update(origin=None),
    ],
)
def test_wrong_types_in_json(hub, change):
    def exchange(files):
        told = json.loads(files["config.json"])
        change(told)
        return {**files, "config.json": json.dumps(told).encode()}

    assert "config.json was not written by" in damaged(hub, exchange)


def test_what_a_newer_version_wrote_says_how_to_get_it(hub):
    def newer(files):
        told = json.loads(files["config.json"])
        told["coopinit_plugin"] = "9.1"
        told["config"]["entropy"] = 0.5
        return {**files, "config.json": json.dumps(told).encode()}

    message = damaged(hub, newer)
    assert "not written by coopinit_plugin, or not by version" in message
    assert "pip install -U coopinit_plugin" in message
    assert "entropy" in message


def test_other_files_are_never_touched(hub, result, tmp_path):
    result.push_to_hub(ID)
    repo = hub.repos[ID]
    extra = {
        "../../evil.txt": b"out",
        "pytorch_model.bin": b"cos\nsystem\n",
        "a/../../b": b"out",
        "modeling.py": b"1/0",
    }
    repo.commit({**repo.files(), **extra})
    hub.log.clear()
    assert same(WarmStart.from_pretrained(ID), result)
    fetched = {line.rsplit("/", 1)[-1] for line in hub.log if "/resolve/" in line}
    assert fetched == set(FILES)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {"evil.txt", "b", "pytorch_model.bin", "modeling.py"}


@pytest.mark.parametrize("there", [{"config.json": CONFIGS["another library's"]}, {"model_index.json": b"{}"}])
def test_a_repository_of_another_library(hub, there):
    hub.add("org/bert", {**there, "model.safetensors": b"", "README.md": b"# BERT"})
    with pytest.raises((CoopInitError, EntryNotFoundError), match=r"not written by coopinit_plugin|config\.json"):
        WarmStart.from_pretrained("org/bert")


@pytest.mark.parametrize("name", [None, 3, ("user", "init")])
def test_a_repository_without_a_name_is_refused(result, name):
    with pytest.raises(CoopInitError, match=r'^repo_id is .*; expected "user/name"'):
        result.push_to_hub(name)
