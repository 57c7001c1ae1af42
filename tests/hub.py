"""A stand-in for the Hugging Face Hub, on this machine: it hands out the files of one data set."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "user/name"
REVISION = 40 * "a"


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    """Serve the files, without folders, of the data set `user/name`, and return the address for `HF_ENDPOINT`.

    It answers what the library `datasets` asks for (https://huggingface.co/docs/hub/api): what the data set is, which
    files it has, and each file or a range of it.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if re.fullmatch(rf"/api/datasets/{NAME}(/revision/\w+)?", path):
                about = {"id": NAME, "sha": REVISION, "private": False, "gated": False, "tags": []}
                self.answer_json({**about, "siblings": [{"rfilename": file} for file in files]})
            elif path == f"/api/datasets/{NAME}/tree/{REVISION}":
                self.answer_json([{"type": "file", "path": file, **facts(file)} for file in files])
            elif (file := path.removeprefix(f"/datasets/{NAME}/resolve/{REVISION}/")) in files:
                self.answer_file(file)
            else:
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})

        do_HEAD = do_GET  # noqa: N815 - the name is the library's

        def answer_file(self, file: str) -> None:
            content, code = files[file], 200
            headers = {"ETag": f'"{facts(file)["oid"]}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
            if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, code = content[first : last + 1], 206
            self.answer(code, content, headers)

        def answer_json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    def facts(file: str) -> dict[str, Any]:
        return {"oid": hashlib.sha1(files[file]).hexdigest(), "size": len(files[file])}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
