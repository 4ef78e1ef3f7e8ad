"""A Hub on the loopback interface that holds repositories in memory: what huggingface_hub asks of one for creating,
committing, listing and downloading. Every upload is "regular", so that files come inside the commit."""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "token-of-alice"


class Repository:
    def __init__(self, private: bool):
        self.private = private
        self.branches: dict[str, dict[str, bytes]] = {"main": {".gitattributes": b""}}
        self.commits = 0
        self.history: list[dict[str, bytes]] = []  # the files after each commit

    def sha(self, revision: str) -> str:
        files = self.files(revision)
        digest = hashlib.sha1(repr(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())).encode())
        return digest.hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        if revision in self.branches:
            return self.branches[revision]
        return next((files for name, files in self.branches.items() if self.sha(name) == revision), None)


class FakeHub:
    """Attributes:
    repositories: "owner/name" -> Repository.
    requests: (method, path) of all that was asked.
    fail_commits: answer commits with this status, or break the connection for 0.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail_commits: int | None = None
        self.url = ""

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False):
        self.repositories[repo_id] = Repository(private)
        self.repositories[repo_id].branches["main"].update(files)


@contextmanager
def running_hub():
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._route("GET")

    def do_HEAD(self):
        self._route("HEAD")

    def do_POST(self):
        self._route("POST")

    def _route(self, method: str):
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append((method, path))
        for pattern, name in _ROUTES:
            if match := re.fullmatch(pattern, path):
                return getattr(self, name)(*match.groups(), body=body)
        return self._json({"error": f"no route for {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, value, status: int = 200, **headers: str):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})

    def _send(self, content: bytes, status: int, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str, **headers: str):
        self._json({"error": code}, 404, **{"X-Error-Code": code, "X-Error-Message": code, **headers})

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json({"error": "not allowed"}, 403)
        return False

    def whoami(self, body):
        self._json(
            {"type": "user", "name": "alice", "fullname": "Alice", "orgs": [], "auth": {"type": "access_token"}}
        )

    def validate(self, body):
        self._json({"errors": [], "warnings": []})

    def create(self, body):
        if not self._may_write():
            return
        fields = json.loads(body)
        repo_id = f"{fields.get('organization') or 'alice'}/{fields['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repositories:
            return self._json({"error": "it exists", "url": url}, 409)
        self.hub.repositories[repo_id] = Repository(
            bool(fields.get("private")) or fields.get("visibility") == "private"  # huggingface_hub 1 and 2
        )
        return self._json({"url": url, "id": repo_id, "name": repo_id})

    def branch(self, repo_id, name, body):
        repository = self.hub.repositories[repo_id]
        if name in repository.branches:
            return self._json({"error": "it exists"}, 409)
        repository.branches[name] = dict(repository.branches["main"])
        return self._json({})

    def preupload(self, repo_id, revision, body):
        files = json.loads(body)["files"]
        answer = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
        self._json({"files": answer})

    def commit(self, repo_id, revision, body):
        if self.hub.fail_commits == 0:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if self.hub.fail_commits:
            return self._json({"error": "refused"}, self.hub.fail_commits)
        if not self._may_write():
            return None
        repository = self.hub.repositories[repo_id]
        files = repository.branches[revision]
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"], None)
        repository.commits += 1
        repository.history.append(dict(files))
        sha = repository.sha(revision)
        url = f"{self.hub.url}/{repo_id}/commit/{sha}"
        return self._json({"commitUrl": url, "commitOid": sha, "hookOutput": "", "success": True})

    def info(self, repo_id, revision=None, body=b""):
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            return self._missing("RepoNotFound")
        revision = revision or "main"
        files = repository.files(revision)
        if files is None:
            return self._missing("RevisionNotFound")
        siblings = [{"rfilename": name} for name in files]
        fields = {"_id": repo_id, "id": repo_id, "modelId": repo_id, "sha": repository.sha(revision), "tags": []}
        return self._json({**fields, "private": repository.private, "siblings": siblings})

    def tree(self, repo_id, revision, path=None, body=b""):
        repository = self.hub.repositories.get(repo_id)
        files = repository and repository.files(revision)
        if not files:
            return self._missing("RepoNotFound" if repository is None else "RevisionNotFound")
        inside = {name: content for name, content in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            return self._missing("EntryNotFound")
        entries = [(name, len(content), hashlib.sha1(content).hexdigest()) for name, content in inside.items()]
        return self._json([{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in entries])

    def resolve(self, repo_id, revision, name, body):
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            return self._missing("RepoNotFound")
        files = repository.files(revision)
        if files is None:
            return self._missing("RevisionNotFound")
        commit = {"X-Repo-Commit": repository.sha(revision)}
        if name not in files:
            return self._missing("EntryNotFound", **commit)
        content = files[name]
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            **commit,
            "Content-Type": "application/octet-stream",
        }
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if start:
            first, last = int(start[1]), int(start[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(content[first : last + 1], 206, headers)
        return self._send(content, 200, headers)


_REPO, _REV = r"([^/]+/[^/]+)", r"([^/]+)"
_ROUTES = (
    (r"/api/whoami-v2", "whoami"),
    (r"/api/validate-yaml", "validate"),
    (r"/api/repos/create", "create"),
    (rf"/api/models/{_REPO}/branch/{_REV}", "branch"),
    (rf"/api/models/{_REPO}/preupload/{_REV}", "preupload"),
    (rf"/api/models/{_REPO}/commit/{_REV}", "commit"),
    (rf"/api/models/{_REPO}/tree/{_REV}", "tree"),
    (rf"/api/models/{_REPO}/tree/{_REV}/(.+)", "tree"),
    (rf"/api/models/{_REPO}/revision/{_REV}", "info"),
    (rf"/api/models/{_REPO}", "info"),
    (rf"/{_REPO}/resolve/{_REV}/(.+)", "resolve"),
)
