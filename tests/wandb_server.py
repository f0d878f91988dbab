"""A W&B server on this machine: as much of the protocol as the W&B client needs to mirror runs, and faults."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

ENTITY = "somebody"
"""The default entity of the only user."""
HISTORY = "wandb-history.jsonl"
SUMMARY = "wandb-summary.json"
EVENTS = "wandb-events.jsonl"

Values = dict[str, Any]


@dataclass
class ServedRun:
    """A run as the server knows it."""

    name: str
    project: str
    entity: str
    attributes: Values = field(default_factory=dict)
    """The latest value of each attribute that the client has sent: `groupName`, `tags`, `config`, ..."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """The lines of each streamed file, by name."""
    received_rows: int = 0
    """How many rows of the history were received, repeated ones included."""
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def history(self) -> list[Values]:
        """The rows, in order."""
        return [json.loads(line) for line in self.lines.get(HISTORY, [])]

    @property
    def config(self) -> Values:
        """The config, without W&B's own key."""
        stored = json.loads(self.attributes["config"])
        return {key: entry["value"] for key, entry in stored.items() if key != "_wandb"}

    @property
    def summary(self) -> Values:
        """The summary."""
        return json.loads(self.lines[SUMMARY][-1])


@dataclass
class ServedArtifact:
    """A version of an artifact."""

    collection: str
    kind: str
    digest: str
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class WandbServer:
    """The state of the server. Requests that it does not know are answered with an error and listed in `unknown`."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], ServedRun] = {}
        """The runs, by project and id."""
        self.artifacts: dict[str, ServedArtifact] = {}
        self.views: list[Values] = []
        """The saved workspaces, as the client sent them."""
        self.unknown: list[str] = []
        self.operations: list[str] = []
        """The names of all GraphQL operations, in order."""
        self.authorizations: set[str] = set()
        self.fault = ""
        """What each request gets: a status such as `500`, `hang up` (a closed connection), or `silence`."""
        self.url = ""
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def committed(self, collection: str) -> list[ServedArtifact]:
        """Return the versions of an artifact, the newest last."""
        return [a for a in self.artifacts.values() if a.collection == collection and a.state == "COMMITTED"]

    # GraphQL

    def answer(self, query: str, variables: Values) -> Values:
        """Return the answer to a GraphQL request."""
        (name,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", query, re.MULTILINE)[:1] or ["?"]
        self.operations.append(name)
        resolve: Callable[[Values], Values] | None = getattr(self, f"_answer_{name}", None)
        if resolve is None:
            self.unknown.append(f"{name}: {' '.join(query.split())[:300]} {json.dumps(variables)[:300]}")
            return {"errors": [{"message": f"unknown operation {name}"}]}
        return {"data": resolve(variables)}

    def _answer_ServerFeaturesQuery(self, _: Values) -> Values:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _answer_OrganizationCoreWeaveOrganizationID(self, _: Values) -> Values:  # noqa: N802
        return {"entity": {"organization": None}}

    def _answer_Viewer(self, _: Values) -> Values:  # noqa: N802
        viewer = {
            "id": "user",
            "entity": ENTITY,
            "username": ENTITY,
            "email": "",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"viewer": viewer}

    def _answer_GetDefaultEntity(self, _: Values) -> Values:  # noqa: N802
        return {"viewer": {"id": "user", "entity": ENTITY}}

    def _answer_UpsertView2(self, variables: Values) -> Values:  # noqa: N802
        self.views.append(variables)
        return {"upsertView": {"view": {"id": f"view-{len(self.views)}", "name": variables["name"]}, "inserted": True}}

    def _answer_RunResumeStatus(self, variables: Values) -> Values:  # noqa: N802
        run = self.runs.get((variables["project"], variables["name"]))
        if run is None:
            return {"model": None}
        bucket = self._bucket(run)
        stored = json.loads(run.attributes["config"])
        return {
            "model": {
                "id": "project",
                "name": run.project,
                "entity": {"id": "entity", "name": run.entity},
                "bucket": {
                    **{key: bucket[key] for key in ("id", "name", "displayName", "config", "historyLineCount")},
                    "summaryMetrics": run.lines.get(SUMMARY, ["{}"])[-1],
                    "logLineCount": len(run.lines.get("output.log", [])),
                    "eventsLineCount": len(run.lines.get(EVENTS, [])),
                    "historyTail": json.dumps(run.lines.get(HISTORY, [])[-1:]),
                    "eventsTail": json.dumps(run.lines.get(EVENTS, [])[-1:]),
                    "tags": run.attributes.get("tags") or [],
                    "notes": run.attributes.get("notes"),
                    "wandbConfig": json.dumps({"t": stored["_wandb"]["value"].get("t", {})}),
                },
            }
        }

    def _bucket(self, run: ServedRun) -> Values:
        return {
            "id": f"storage-{run.name}",
            "name": run.name,
            "displayName": run.attributes.get("displayName"),
            "description": None,
            "config": run.attributes.get("config"),
            "sweepName": None,
            "project": {"id": "project", "name": run.project, "entity": {"id": "entity", "name": run.entity}},
            "historyLineCount": len(run.lines.get(HISTORY, [])),
        }

    def _answer_UpsertBucket(self, variables: Values) -> Values:  # noqa: N802
        key = variables["project"], variables["name"]
        is_new = key not in self.runs
        run = self.runs.setdefault(key, ServedRun(key[1], key[0], variables.get("entity") or ENTITY))
        run.attributes |= {key: value for key, value in variables.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": is_new}}

    def _answer_RunStoppedStatus(self, _: Values) -> Values:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _upload_url(self, *parts: str) -> str:
        return f"{self.url}/upload/{quote('/'.join(parts))}"

    def _answer_CreateRunFiles(self, variables: Values) -> Values:  # noqa: N802
        project, run = variables["project"], variables["run"]
        files = [
            {"name": name, "uploadUrl": self._upload_url("run", f"{project}:{run}", name)}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": f"storage-{run}", "uploadHeaders": [], "files": files}}

    def _answer_ArtifactType(self, variables: Values) -> Values:  # noqa: N802
        versions = self.committed(variables["name"].partition(":")[0])
        artifact = {"artifactType": {"name": versions[-1].kind}} if versions else None
        return {"project": {"artifact": artifact}}

    def _answer_CreateArtifact(self, variables: Values) -> Values:  # noqa: N802
        given = variables["input"]
        collection = given["artifactCollectionName"]
        versions = [(i, a) for i, a in self.artifacts.items() if a.collection == collection and a.state == "COMMITTED"]
        known = next((i for i, a in versions if a.digest == given["digest"]), None)
        latest = {"id": versions[-1][0]} if versions else None
        if known is None:
            known = f"artifact-{len(self.artifacts)}"
            self.artifacts[known] = ServedArtifact(collection, given["artifactTypeName"], given["digest"])
        artifact = {"id": known, "state": self.artifacts[known].state, "artifactSequence": {"latestArtifact": latest}}
        return {"createArtifact": {"artifact": artifact}}

    def _answer_CreateArtifactManifest(self, variables: Values) -> Values:  # noqa: N802
        artifact = variables["artifactID"]
        file: Values = {"id": f"file-{artifact}"}
        if variables["includeUpload"]:
            file |= {"uploadUrl": self._upload_url("manifest", artifact, variables["name"]), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{artifact}", "file": file}}}

    def _answer_UpdateArtifactManifest(self, variables: Values) -> Values:  # noqa: N802
        manifest = variables["artifactManifestID"]
        artifact = manifest.removeprefix("manifest-")
        url = self._upload_url("manifest", artifact, "wandb_manifest.json")
        file = {"id": f"file-{artifact}", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": manifest, "file": file}}}

    def _answer_CreateArtifactFiles(self, variables: Values) -> Values:  # noqa: N802
        edges = []
        for spec in variables["input"]["artifactFiles"]:
            artifact, name = spec["artifactID"], spec["name"]
            node = {
                "storagePath": f"{artifact}/{name}",
                "uploadUrl": self._upload_url("artifact", artifact, name),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": artifact},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _answer_CommitArtifact(self, variables: Values) -> Values:  # noqa: N802
        artifact = self.artifacts[variables["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": artifact.digest}}}

    # Files

    def stream(self, project: str, name: str, request: Values) -> Values:
        """Take lines of a run's streamed files."""
        run = self.runs[project, name]
        for file, part in (request.get("files") or {}).items():
            lines = run.lines.setdefault(file, [])
            offset, content = part["offset"], part["content"]
            lines[offset : offset + len(content)] = content
            run.received_rows += len(content) if file == HISTORY else 0
        if request.get("complete"):
            run.exit_codes.append(request["exitcode"])
        return {}

    def store(self, kind: str, owner: str, name: str, content: bytes) -> None:
        """Take an uploaded file."""
        if kind == "run":
            project, run = owner.split(":")
            self.runs[project, run].files[name] = content
        elif kind == "artifact":
            self.artifacts[owner].files[name] = content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: WandbServer

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def _is_faulty(self) -> bool:
        state = self.server_state
        if state.fault.isdigit():
            self._reply(int(state.fault), b"{}")
        elif state.fault == "silence":
            state.closing.wait()
        if state.fault:
            self.close_connection = True
        return bool(state.fault)

    def _reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        state, content = self.server_state, self._body()
        if self._is_faulty():
            return
        path = urlsplit(self.path).path
        with state.lock:
            state.authorizations.add(self.headers.get("Authorization", ""))
            if path == "/graphql":
                request = json.loads(content)
                answer = state.answer(request["query"], request.get("variables") or {})
            elif match := re.fullmatch(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", path):
                answer = state.stream(unquote(match[1]), unquote(match[2]), json.loads(content))
            else:
                state.unknown.append(f"POST {path}")
                self._reply(404, b"{}")
                return
        self._reply(200, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        content = self._body()
        if self._is_faulty():
            return
        kind, owner, name = unquote(urlsplit(self.path).path).removeprefix("/upload/").split("/", 2)
        with self.server_state.lock:
            self.server_state.store(kind, owner, name, content)
        self._reply(200, b"")

    def do_GET(self) -> None:
        if not self._is_faulty():
            self.server_state.unknown.append(f"GET {self.path}")
            self._reply(404, b"{}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Be silent: a client may close its connection at any time."""


@contextmanager
def served() -> Iterator[WandbServer]:
    """Serve on a free port of this machine during the block."""
    state = WandbServer()
    handler = type("Handler", (_Handler,), {"server_state": state})
    server = _Server(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
