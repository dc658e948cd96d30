"""A real nginx in the foreground, on a loopback port of its own, with an access log for programs to read."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

SYNC_PATH = "/.lazysif-sync"

CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
  log_format lines escape=json '{{"method":"$request_method","uri":"$uri","status":$status,'
    '"range":"$http_range","content_range":"$sent_http_content_range","bytes":$body_bytes_sent,'
    '"if_match":"$http_if_match","connection":$connection,"time_s":$msec,"took_s":$request_time}}';
  access_log access.jsonl lines;
  client_body_temp_path tmp; proxy_temp_path tmp;
  fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  {http}
  server {{
    listen 127.0.0.1:{port};
    root {root};
    autoindex {autoindex};
    autoindex_format {autoindex_format};
    location = {sync} {{ return 204; }}
    {server}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One line of the access log; `uri` is decoded, `bytes` are of the body."""

    method: str
    uri: str
    status: int
    range: str
    content_range: str
    bytes: int
    if_match: str
    connection: int
    time_s: float
    took_s: float

    @property
    def sent(self) -> tuple[int, int] | None:
        """Half-open range of the file that went over the wire; None if nothing did."""
        if self.method != "GET" or not self.bytes or self.status not in (200, 206):
            return None
        start = 0
        if self.status == 206:
            start = int(self.content_range.removeprefix("bytes ").partition("-")[0])
        return start, start + self.bytes


def find_nginx() -> str | None:
    """The program, which ordinary users do not have on their PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """Serve a directory; use it as a context manager.

    Args:
        root: what is served.
        autoindex: how directories are listed.
        server: more lines for the `server` block, `http` for the `http` block.

    Raises:
        FileNotFoundError: nginx is not installed.
        RuntimeError: it did not start; the text is its error log.
    """

    def __init__(
        self,
        root: Path,
        *,
        autoindex: Literal["html", "json", "off"] = "html",
        server: str = "",
        http: str = "",
    ) -> None:
        self.root = root
        self._autoindex = autoindex
        self._server = server
        self._http = http
        self._syncs = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        binary = find_nginx()
        if binary is None:
            raise FileNotFoundError("nginx is not installed")
        self.prefix = Path(tempfile.mkdtemp(prefix="lazysif-nginx-"))
        listener = socket.create_server(("127.0.0.1", 0), backlog=511)
        with listener:
            self.port = listener.getsockname()[1]
            (self.prefix / "tmp").mkdir()
            (self.prefix / "nginx.conf").write_text(self._configuration())
            # nginx takes over listening sockets named by this variable (its way of upgrading itself): so the
            # kernel chooses the port and nobody can take it in between.
            self._process = subprocess.Popen(
                [binary, "-p", f"{self.prefix}/", "-c", "nginx.conf", "-e", "error.log"],
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller
            )
        try:
            self._synchronize()
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            log = self.error_log()
            self.close()
            raise RuntimeError(f"nginx does not answer ({error}): {log}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.prefix, ignore_errors=True)

    def error_log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.prefix / "error.log").read_text()
        return ""

    def requests(self, uri: str | None = None) -> list[LoggedRequest]:
        """All requests answered so far, in the order in which they ended."""
        self._synchronize()
        lines = [LoggedRequest(**json.loads(line)) for line in self._log_lines()]
        return [line for line in lines if line.uri != SYNC_PATH and uri in (None, line.uri)]

    def bytes_sent(self, uri: str | None = None) -> int:
        return sum(request.bytes for request in self.requests(uri))

    def clear_log(self) -> None:
        self._synchronize()
        os.truncate(self.prefix / "access.jsonl", 0)
        self._syncs = 0

    def _configuration(self) -> str:
        return CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            port=self.port,
            root=self.root,
            autoindex="off" if self._autoindex == "off" else "on",
            autoindex_format="html" if self._autoindex == "off" else self._autoindex,
            sync=SYNC_PATH,
            server=self._server,
            http=self._http,
        )

    def _log_lines(self) -> list[str]:
        return (self.prefix / "access.jsonl").read_text().splitlines()

    def _synchronize(self) -> None:
        """Make sure that all requests answered before now are in the log.

        nginx logs a request after its last byte has left. With its single worker, what is answered before a
        request of ours is also logged before it.
        """
        self._syncs += 1
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", SYNC_PATH)
            connection.getresponse().read()
        finally:
            connection.close()
        deadline_s = time.monotonic() + 5
        while sum(f'"uri":"{SYNC_PATH}"' in line for line in self._log_lines()) < self._syncs:
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError("nginx wrote no log")
            time.sleep(0.002)
