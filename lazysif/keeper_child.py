"""One daemon, as the keeper sees it. Standard library only (see `lazysif.keeper`)."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import time
from typing import Any

log = logging.getLogger("lazysif.keeper")

LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
MESSAGE_BYTES = 1 << 16
STOP_S = 3.0
"""A daemon that is asked to stop gets this long to finish what it has in hand and to write its cache."""
KILLED_S = 1.0
"""A killed daemon that has not ended by then waits for a disk, or for this mount: nobody waits for it."""


class Child:
    """One daemon: its process, and the socket that says how it is."""

    def __init__(
        self, command: list[str], order: dict[str, Any], fuse_fd: int, init: bytes, restarts: int
    ) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        init_socket, init_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, init_socket, init_theirs:
            init_socket.send(init)
            numbers = (fuse_fd, init_theirs.fileno(), theirs.fileno())
            # whoever waits for the end of our caller's output would wait for a daemon that held it
            output = None if order["foreground"] else os.open(order["log_file"], LOG_FLAGS, 0o600)
            self.process = subprocess.Popen(
                [*command, *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=numbers,
                env={**os.environ, "LAZYSIF_KEEPER": f"{os.getpid()} {restarts}"},
            )
            if output is not None:
                os.close(output)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(order["config"].encode())
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it ended at once; `said` will show that
        self.started_s = time.monotonic()
        self.heard_s = self.started_s
        self.last_words = b""
        self.prepared = False
        self.serves_since_s = 0.0
        self.error: dict[str, Any] | None = None

    def listen(self) -> bool:
        """Take in one message; False when there will be none any more."""
        try:
            message = self.socket.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            message = b""
        self.heard_s = time.monotonic()
        if message == b"prepared":
            self.prepared = True
        elif message == b"serving":
            self.serves_since_s = self.heard_s
        elif message.startswith(b"alive "):
            said = message.removeprefix(b"alive ")
            self.last_words = b'{"heard_s": %.3f, "in_hand": %b}' % (self.heard_s, said)
        elif message.startswith(b"{"):
            self.error = json.loads(message)
        return bool(message)

    def go(self, last_words: bytes = b"") -> None:
        """Let it take the mount; what its predecessor had in hand keeps its deadlines."""
        self.last_words = last_words
        try:
            self.socket.send(b"go " + last_words)
        except OSError as error:
            log.warning("daemon %d does not listen: %s", self.process.pid, error)

    def end(self, number: int = signal.SIGKILL, wait_s: float = STOP_S) -> int:
        """Signal it, kill it if that does not end it, and return its exit code."""
        self.socket.close()
        for sent, patience_s in ((number, wait_s), (signal.SIGKILL, KILLED_S)):
            if self.process.poll() is None:
                self.process.send_signal(sent)
            try:
                return self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        log.error("daemon %d is killed and does not end; going on without it", self.process.pid)
        return -signal.SIGKILL
