"""Owns the kernel's end of one mount, and keeps a daemon behind it.

The mount lives as long as /dev/fuse is open. So this process opens it, mounts, reads the kernel's INIT request once,
and starts daemons (`lazysif.serve`) that share the descriptor. Each daemon reads the recorded INIT from a socket; its
reply to it goes to the kernel, which takes the first one and refuses the others, harmlessly. When a daemon dies the
next one is started, and the kernel is told to ask again what the dead one had in hand (FUSE_NOTIFY_RESEND, Linux
6.9). Jobs notice a pause.

Nothing outside the standard library and `keeper_mount` and `keeper_child`, which keep to the same, no cache, no
network, no parsing of what others sent: this must not fail.

    keeper.py MOUNTPOINT REPORT_FD < ORDER

ORDER is JSON (`lazysif.cli.mount` writes it); one JSON document on REPORT_FD says how the mount went.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # -I and -S leave its own package out, too; last, so that nothing installed hides the standard library
    sys.path.append(str(Path(__file__).parents[1]))

from lazysif.keeper_child import Child
from lazysif.keeper_mount import KernelMount, MountFailed

log = logging.getLogger("lazysif.keeper")

READY_S = 30.0
"""Within which a daemon that was started must serve."""
SILENT_S = 10.0
"""A daemon says every second that it is alive; one that is silent for longer is replaced."""
STOPPED_S = 3.0
"""A keeper that took longer than this for a turn, where it waits for a second, was stopped itself."""
KILLED_YOUNG_S, CRASHED_YOUNG_S = 0.3, 10.0
"""A daemon that ends sooner after it began to serve, killed or by itself, may have met a request that ends the next
one, too."""
PAUSES_S = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0)
"""Before the next start, by how many daemons in a row have died young. After the last of them, or without a daemon
that serves for `GIVE_UP_S`, the connection is closed: jobs get errors instead of hanging."""
GIVE_UP_S = 60.0


class Keeper:
    """The mount and its present daemon. `order` is what `lazysif mount` asked for."""

    def __init__(self, order: dict[str, Any], report: int) -> None:
        self.order = order
        self.report_fd = report
        self.command: list[str] = order["command"]
        self.restarts = 0
        self.young_deaths = 0
        self.must_resend = False
        self.lost_s = self.looked_s = time.monotonic()
        self.signals, self.signalled = socket.socketpair()
        self.mount = KernelMount(order)
        self.child: Child

    def run(self) -> int:
        """Mount and serve until the mount is gone; the exit code."""
        try:
            self.mount.open()
        except (MountFailed, OSError) as error:
            self.report(error=str(error), kind="MountError", hint=self.order["mount_hint"])
            return 3
        self.set_up_signals()
        try:
            self.child = self.start(self.command)
            self.child.go()
            while self.mount.connected() and self.turn():
                pass
            code = self.child.end(signal.SIGTERM)
            if code not in (0, -signal.SIGTERM):  # -SIGTERM: it was past its end
                log.error(
                    "the daemon ended with exit code %d: what it had not written is fetched again", code
                )
        finally:
            self.mount.close()
        log.info("%s is unmounted, the keeper ends", self.order["mountpoint"])
        return 0

    # --- daemons -----------------------------------------------------------------------------------------------

    def start(self, command: list[str], restarts: int = 0) -> Child:
        """Raises: OSError where no process can be started."""
        return Child(command, self.order, self.mount.fuse_fd, self.mount.init, restarts)

    def turn(self) -> bool:
        """Wait for the next thing to happen and act on it; False when all is to end."""
        child = self.child
        readable = select.select([child.socket, self.signals], [], [], 1.0)[0]
        # one look at the clock a turn: a stop falls between two of these, wherever in a turn it comes
        now_s, before_s = time.monotonic(), self.looked_s
        self.looked_s = now_s
        if now_s - before_s > STOPPED_S:  # so were we: what stopped us may have stopped it
            child.heard_s = now_s
        if self.signals in readable:
            for number in self.signals.recv(64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    return False
                if number == signal.SIGHUP:
                    self.upgrade()
                    return True
        if child.socket in readable:
            served_before = child.serves_since_s
            if not child.listen():
                return self.replace("it ended")
            if child.serves_since_s and not served_before:
                self.on_serving()
        silent_s = now_s - child.heard_s
        if silent_s > (SILENT_S if child.serves_since_s else READY_S):
            return self.replace(f"it said nothing for {silent_s:.0f} s")
        return True

    def on_serving(self) -> None:
        if self.must_resend:
            log.warning(
                "daemon %d serves after %.2f s", self.child.process.pid, time.monotonic() - self.lost_s
            )
            self.must_resend = False
            self.resend()
        self.report(ready=True)

    def resend(self) -> None:
        """Have the kernel ask again what a daemon had in hand when it died."""
        try:
            if self.order["resend"]:
                self.mount.resend()
                return
        except OSError as error:
            if not self.mount.connected():
                return
            log.error("the kernel does not resend requests: %s", error)
        self.remount()

    def remount(self) -> None:
        """Without RESEND (before Linux 6.9): fail what is lost by ending the connection, and begin a new one."""
        log.error("requests in hand are failed, and %s is mounted anew", self.order["mountpoint"])
        self.child.end(signal.SIGTERM)
        self.mount.close()
        self.mount.open()
        self.child = self.start(self.command)
        self.child.go()

    def replace(self, why: str) -> bool:
        """The daemon is gone or useless: start the next one. False to end the mount."""
        child, code = self.child, self.child.end()
        if not self.mount.connected():
            return False
        if self.report_fd >= 0:
            self.report(
                **(child.error or {"error": "the daemon ended before it served", "kind": "LazysifError"})
            )
            return False
        log.error("daemon %d (exit code %d): %s", child.process.pid, code, why)
        now, served_s = time.monotonic(), 0.0
        if child.serves_since_s:
            self.lost_s, served_s = now, now - child.serves_since_s
        old = served_s > (KILLED_YOUNG_S if code == -signal.SIGKILL else CRASHED_YOUNG_S)
        self.young_deaths = 0 if old else self.young_deaths + 1
        return self.start_next()

    def start_next(self) -> bool:
        """Start another daemon after a pause that grows; False to give up."""
        last_words = self.child.last_words
        while time.monotonic() - self.lost_s <= GIVE_UP_S and self.young_deaths <= len(PAUSES_S):
            time.sleep(PAUSES_S[self.young_deaths - 1] if self.young_deaths else 0.0)
            try:
                self.child = self.start(self.command, self.restarts + 1)
            except OSError as error:  # no memory, no processes, no descriptors: all may pass
                log.error("no daemon can be started: %s", error)
                self.young_deaths += 1
                continue
            self.restarts += 1
            self.must_resend = True
            self.child.go(last_words)
            return True
        log.critical("%s is given up after %d daemons", self.order["mountpoint"], self.restarts + 1)
        return False

    def upgrade(self) -> None:
        """Start the program that the order file names now, and when it is prepared let it take over."""
        command, config = self.command, self.order["config"]
        try:
            told = json.loads(Path(self.order["upgrade_file"]).read_text())
            command, config = told["command"], told.get("config", config)
        except (OSError, ValueError, KeyError) as error:
            log.info("upgrading in place: %s", error)
        before, self.order["config"] = self.order["config"], config
        try:
            following = self.start(command, self.restarts + 1)
        except OSError as error:
            self.order["config"] = before
            log.error("the new daemon cannot be started (%s): the old one goes on", error)
            return
        deadline = time.monotonic() + READY_S
        while not following.prepared and time.monotonic() < deadline:
            if select.select([following.socket], [], [], 0.5)[0] and not following.listen():
                break
        if not following.prepared:
            log.error("the new daemon does not start (%s): the old one goes on", following.error)
            following.end()
            self.order["config"] = before
            return
        self.restarts += 1
        self.lost_s, last_words = time.monotonic(), self.child.last_words
        self.child.end(signal.SIGTERM)
        self.command = command
        self.young_deaths = 0
        self.must_resend = True
        self.child = following
        following.started_s = following.heard_s = time.monotonic()
        following.go(last_words)

    # --- the rest ----------------------------------------------------------------------------------------------

    def set_up_signals(self) -> None:
        for end in (self.signals, self.signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(self.signalled.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def report(self, **document: Any) -> None:
        """Tell `lazysif mount` how it went, once."""
        if self.report_fd < 0:
            return
        fd, self.report_fd = self.report_fd, -1
        try:
            os.write(fd, json.dumps(document).encode())
        except OSError:
            pass  # it did not wait
        os.close(fd)
        if document.get("ready") and not self.order["foreground"]:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2):
                os.dup2(null, number)


def main() -> int:
    order = json.load(sys.stdin)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if order["log_file"]:
        handlers = [logging.handlers.WatchedFileHandler(order["log_file"])]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers
    )
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000" if os.geteuid() == 0 else "0")
    except OSError as error:
        log.info("the OOM killer may choose the keeper: %s", error)
    return Keeper(order, int(sys.argv[2])).run()


if __name__ == "__main__":
    sys.exit(main())
