"""A daemon as the keeper starts it, its order on standard input.

    python -m lazysif.serve MOUNTPOINT FUSE_FD INIT_FD LIFE_FD < ORDER

It prepares (imports, configuration, log), says "prepared", waits for "go", takes the mount, says "serving", and from
then on "alive" every second, with what it has in hand. Errors before that go to the keeper as JSON. After "go" comes
what a predecessor said last, and when.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from lazysif.config.load import from_toml
from lazysif.core.asked import Asked
from lazysif.daemon import run
from lazysif.errors import LazysifError
from lazysif.fuse.session import KeptConnection
from lazysif.log_setup import set_up_log

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 1 << 16


def main() -> int:
    """The exit code: 0 if the mount is gone or somebody asked for the end."""
    fuse_fd, init_fd, life_fd = (int(argument) for argument in sys.argv[2:5])
    life = socket.socket(fileno=life_fd)
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        _be_killed_before_the_keeper()
        config = from_toml(order["config"])
        set_up_log(config, foreground=order["foreground"])
        life.send(b"prepared")
        told, _, last_words = life.recv(_MESSAGE_BYTES).partition(b" ")
        if told != b"go":
            return 0
        run(config, sys.argv[1], KeptConnection(fuse_fd, init_fd, life, _asked(last_words)))
    except LazysifError as error:
        log.error("%s", error)
        _say(life, error=error.why, hint=error.hint, kind=type(error).__name__)
        return 1
    except Exception as error:
        log.exception("the daemon ended in an unexpected way")
        _say(life, error=f"{type(error).__name__}: {error}", hint="the log has more", kind="LazysifError")
        return 1
    finally:
        logging.shutdown()
    return 0


def _asked(last_words: bytes) -> Asked:
    """Since when requests wait, by what the keeper heard last of a predecessor."""
    try:
        said = json.loads(last_words) if last_words else {}
        return Asked(said.get("in_hand"), said.get("heard_s"))
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("what the daemon before this one had in hand cannot be read: %s", error)
        return Asked()


def _be_killed_before_the_keeper() -> None:
    """The keeper's score is the lowest, and children inherit it."""
    try:
        Path("/proc/self/oom_score_adj").write_text("-500" if os.geteuid() == 0 else "0")
    except OSError as error:
        log.debug("oom_score_adj stays: %s", error)


def _say(life: socket.socket, **document: str) -> None:
    try:
        life.send(json.dumps(document).encode())
    except OSError:
        pass  # the keeper is gone; the log has it


if __name__ == "__main__":
    sys.exit(main())
