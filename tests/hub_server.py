"""A Hub on loopback: repositories in memory, behind the HTTP that huggingface_hub speaks, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import types
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http
from snapshot import bits

from coopinit_plugin import WarmStart

Files = dict[str, bytes]
ID = "me/init"


@dataclass
class Repo:
    """Branches point at commits, commits hold files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    requests: int = 0  # pull requests so far

    def files(self, revision: str = "main") -> Files | None:
        return self.commits.get(self.branches.get(revision, revision))

    def commit(self, files: Files, branch: str = "main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


@dataclass
class Fault:
    """Something that goes wrong with the next requests of one kind.

    Attributes:
        method: Of the request.
        path: Regular expression that its path matches.
        kind: A status, or ``"cut"``: the connection ends in the middle of the body, of the request where it has one.
        times: How often.
    """

    method: str
    path: str
    kind: int | str
    times: int = 1


class Hub:
    """Serve while the ``with`` block runs.

    Attributes:
        url: The endpoint.
        repos: By id.
        token: What ``Authorization`` has to carry for writing, and for reading what is private.
        lfs: Whether binary files go through LFS, as at the real Hub.
        faults: What goes wrong next.
        log: ``"METHOD path"`` of every request.
        received: Bytes of request bodies.
    """

    def __init__(self, *, lfs: bool = True) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.token = "hf_secret"
        self.lfs = lfs
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.received = 0
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, files: Files, **how) -> Repo:
        """Put a repository there by hand."""
        self.repos[repo_id] = Repo(**how)
        self.repos[repo_id].commit(files)
        return self.repos[repo_id]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        self.hub.log.append(f"{self.command} {self.route}")
        length = int(self.headers.get("Content-Length") or 0)
        fault = next((f for f in self.hub.faults if f.method == self.command and re.search(f.path, self.route)), None)
        if fault is not None:
            fault.times -= 1
            if fault.times == 0:
                self.hub.faults.remove(fault)
        self.cut = fault is not None and fault.kind == "cut"
        if self.cut and length:
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        self.hub.received += len(body)
        if fault is not None and isinstance(fault.kind, int):
            self._json({"error": f"fault {fault.kind}"}, fault.kind)
            return
        for method, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found and method == self.command:
                action(self, body, *found.groups())
                return
        self._json({"error": f"no route {self.command} {self.route}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _chunked(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    # --- answers

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.close_connection = True

    def _json(self, content, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def _no(self, status: int, code: str, text: str) -> None:
        self._json({"error": text}, status, X_Error_Code=code, X_Error_Message=text)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repo(self, repo_id: str, revision: str | None = None, *, write: bool = False) -> Repo | None:
        """The repository, or ``None`` and the answer that the Hub gives."""
        repo = self.hub.repos.get(repo_id)
        if write and not self._known():
            self._json({"error": "Invalid username or password."}, 401)
        elif repo is None or (repo.private and not self._known()):
            self._no(404 if self._known() else 401, "RepoNotFound", "Repository not found")
        elif revision is not None and repo.files(revision) is None and (repo.commits or revision != "main"):
            self._no(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    # --- routes

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self._known():
            self._json({"error": "Invalid username or password."}, 401)
            return
        exists = repo_id in self.hub.repos
        if not exists:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.repos[repo_id] = Repo(private=private)
            self.hub.repos[repo_id].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        self._json(
            {**answer, "error": "You already created this model repo"} if exists else answer, 409 * exists or 200
        )

    def _validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = []
        data = {}
        if not head:
            errors.append({"message": "no YAML metadata"})
        else:
            try:
                data = yaml.safe_load(head[1])
            except yaml.YAMLError as error:
                errors.append({"message": str(error)})
        for name in ("license", "library_name", "pipeline_tag"):
            if not isinstance(data.get(name, ""), str):
                errors.append({"message": f'"{name}" must be a string'})
        if not all(isinstance(tag, str) for tag in data.get("tags", [])):
            errors.append({"message": '"tags" must be strings'})
        for model in data.get("model-index", []):
            results = model.get("results", [])
            if not isinstance(model.get("name"), str) or not results:
                errors.append({"message": '"model-index" needs a name and results'})
            for result in results:
                if not {"type"} <= set(result["task"]) or not {"type", "name"} <= set(result["dataset"]):
                    errors.append({"message": '"model-index" needs task.type, dataset.type and dataset.name'})
                if not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                    errors.append({"message": '"model-index" needs metrics with type and value'})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, revision, write=True)
        if repo is None:
            return
        there = repo.files(revision) or {}
        answers = []
        for asked in json.loads(body)["files"]:
            binary = self.hub.lfs and asked["path"].endswith((".safetensors", ".png"))
            answer = {"path": asked["path"], "uploadMode": "lfs" if binary else "regular", "shouldIgnore": False}
            if asked["path"] in there:
                answer["oid"] = _oid(there[asked["path"]], lfs=binary)
            answers.append(answer)
        self._json({"files": answers})

    def _lfs_batch(self, body: bytes, repo_id: str) -> None:
        if self._repo(repo_id, write=True) is None:
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            there = asked["oid"] in self.hub.blobs
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append({**asked, "authenticated": True, **({} if there else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json({"error": "digest"}, 400)
            return
        self.hub.blobs[oid] = body
        self._send(b"")

    def _lfs_get(self, _: bytes, oid: str) -> None:
        self._send(self.hub.blobs[oid], ETag=f'"{oid}"')

    def _commit(self, body: bytes, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, revision, write=True)
        if repo is None:
            return
        files = dict(repo.files(revision) or {})
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif row["key"] == "deletedFile":
                files.pop(value["path"], None)
        answer = {}
        if self.query.get("create_pr") == ["1"]:
            repo.requests += 1
            revision = f"refs/pr/{repo.requests}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{repo.requests}"
        sha = repo.commit(files, revision)
        self._json({**answer, "success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"})

    def _branch(self, _: bytes, repo_id: str, name: str) -> None:
        repo = self._repo(repo_id, write=True)
        if repo is not None:
            repo.branches[name] = repo.branches["main"]
            self._json({})

    def _info(self, _: bytes, repo_id: str, revision: str = "main") -> None:
        repo = self._repo(repo_id, revision)
        if repo is not None:
            sha = repo.branches.get(revision, revision)
            names = [{"rfilename": name} for name in repo.commits[sha]]
            self._json({"id": repo_id, "sha": sha, "private": repo.private, "tags": [], "siblings": names})

    def _resolve(self, _: bytes, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo(repo_id, revision)
        if repo is None:
            return
        sha = repo.branches.get(revision, revision)
        content = repo.commits[sha].get(name)
        if content is None:
            self._no(404, "EntryNotFound", f"Entry not found: {name}")
            return
        lfs = self.hub.lfs and name.endswith((".safetensors", ".png"))
        etag = _oid(content, lfs=lfs)
        if lfs:
            self.hub.blobs[etag] = content
            linked = {"X_Linked_Size": str(len(content)), "X_Linked_ETag": f'"{etag}"'}
            away = self.hub.url.replace(
                "127.0.0.1", "localhost"
            )  # as a CDN would be: the client must not see the same host
            self._send(b"", 302, Location=f"{away}/lfs/{etag}", X_Repo_Commit=sha, **linked)
        else:
            self._send(content, X_Repo_Commit=sha, ETag=f'"{etag}"', length=str(len(content)))


def _oid(content: bytes, *, lfs: bool) -> str:
    """How git names it: the SHA-256 of a file in LFS, else the blob's SHA-1."""
    if lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_ID = r"([^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("POST", f"/api/models/{_ID}/preupload/(.+)", _Handler._preupload),
    ("POST", f"/api/models/{_ID}/commit/(.+)", _Handler._commit),
    ("POST", f"/api/models/{_ID}/branch/(.+)", _Handler._branch),
    ("GET", f"/api/models/{_ID}", _Handler._info),
    ("GET", f"/api/models/{_ID}/revision/(.+)", _Handler._info),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler._lfs_put),
    ("GET", "/lfs/([0-9a-f]{64})", _Handler._lfs_get),
    ("HEAD", "/lfs/([0-9a-f]{64})", _Handler._lfs_get),
    ("GET", f"/{_ID}/resolve/(refs/pr/[0-9]+|[^/]+)/(.+)", _Handler._resolve),
    ("HEAD", f"/{_ID}/resolve/(refs/pr/[0-9]+|[^/]+)/(.+)", _Handler._resolve),
]


@pytest.fixture
def hub(monkeypatch, tmp_path, request):
    """A Hub of its own, an empty cache, and the token of the user ``me``."""
    with Hub(lfs=request.getfixturevalue("lfs") if "lfs" in request.fixturenames else True) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", server.token)
        # The client waits ever longer between its attempts; here it need not.
        monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda _: None, time=time.time))
        yield server


def same(a: WarmStart, b: WarmStart) -> bool:
    return all(
        {key: bits(value) for key, value in getattr(a, name).items()}
        == {key: bits(value) for key, value in getattr(b, name).items()}
        for name in ("generator_state", "discriminator_state")
    ) and (a.config, a.history, a.summary, a.origin) == (b.config, b.history, b.summary, b.origin)
