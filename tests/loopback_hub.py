"""A Hub on this machine: as much of the Hub's interface as its client needs to publish a model and
to load it.

Its address is one for all tests, for the Hub's client reads it when it is imported.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading


class Hub:
    """Repositories in memory.

    Attributes:
        repos: id → {"private": bool, "commits": [{name: bytes}]}
        requests: (method, path, authorisation) of each.
        broken_commits: So many of the next commits lose their connection.
        token: What a client must send to write, and to read what is private.
    """

    def __init__(self, token):
        self.repos, self.requests, self.broken_commits, self.token = {}, [], 0, token


NO_HUB = Hub(token=None)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = NO_HUB

    def answer(self, status=200, body=b"", headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def allowed(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def body(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(length)

    def repo(self, name):
        repo = self.hub.repos.get(name)
        return repo if repo and (not repo["private"] or self.allowed()) else None

    def note(self):
        self.hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        return self.path.split("?")[0].strip("/").split("/")

    def do_POST(self):
        parts, data = self.note(), self.body()
        if parts == ["api", "validate-yaml"]:
            known = r"^license: (apache-2\.0|mit|cc-by-nc-4\.0)$"
            unknown = not re.search(known, json.loads(data)["content"], flags=re.M)
            message = '"license" must be one of [apache-2.0, mit, …]'
            if unknown and self.headers.get("Accept") == "text/plain":
                return self.answer(400, message.encode())
            return self.answer(
                400 if unknown else 200,
                {"errors": [{"message": message}] * unknown, "warnings": []},
            )
        if not self.allowed():
            return self.refuse(401, "Unauthorized")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                return self.answer(409, {"url": f"{ADDRESS}/{name}"})
            self.hub.repos[name] = {
                "private": asked.get("visibility") == "private" or asked.get("private"),
                "commits": [],
            }
            return self.answer(200, {"url": f"{ADDRESS}/{name}"})
        name, what = "/".join(parts[2:4]), parts[4]
        if what == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(data)["files"]
            ]
            return self.answer(200, {"files": files})
        if self.hub.broken_commits:
            self.hub.broken_commits -= 1
            self.close_connection = True
            return self.connection.close()
        lines = [json.loads(line) for line in data.splitlines()]
        files = {
            line["value"]["path"]: line["value"]["content"]
            for line in lines
            if line["key"] == "file"
        }
        last = (self.hub.repos[name]["commits"] or [{}])[-1]
        deleted = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        kept = {path: data for path, data in last.items() if path not in deleted}
        added = {path: base64.b64decode(text) for path, text in files.items()}
        self.hub.repos[name]["commits"].append(kept | added)
        return self.answer(
            200,
            {"commitUrl": f"{ADDRESS}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40},
        )

    def do_PUT(self):
        parts, data = self.note(), json.loads(self.body())
        self.hub.repos["/".join(parts[2:4])]["private"] = data.get(
            "private", data.get("visibility") == "private"
        )
        self.answer(200, {})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.note()
        api = parts[:2] == ["api", "models"]
        repo = self.repo("/".join(parts[2:4] if api else parts[:2]))
        if repo is None or not (repo["commits"] or api):
            return self.refuse(404, "RepoNotFound")
        files = repo["commits"][-1] if repo["commits"] else {}
        if api and parts[4:5] == ["tree"]:
            return self.answer(
                200,
                [
                    {"type": "file", "path": name, "size": len(data), "oid": "1" * 40}
                    for name, data in files.items()
                ],
            )
        if api:
            facts = {
                "id": "/".join(parts[2:4]),
                "sha": "1" * 40,
                "private": repo["private"],
                "tags": [],
            }
            return self.answer(200, {**facts, "siblings": [{"rfilename": name} for name in files]})
        name = "/".join(parts[4:])
        if name not in files:
            return self.answer(
                404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "1" * 40}
            )
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": "1" * 40})

    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


_SERVER = _Server(("127.0.0.1", 0), Handler)
ADDRESS = f"http://127.0.0.1:{_SERVER.server_port}"
threading.Thread(target=_SERVER.serve_forever, daemon=True).start()


@contextlib.contextmanager
def loopback_hub(token="hf_secret_of_the_test"):
    """A new Hub at `ADDRESS`; without one, nothing there is found and nobody is let in."""
    Handler.hub = hub = Hub(token)
    try:
        yield hub
    finally:
        Handler.hub = NO_HUB
