"""What is set on a mount beside serving it, and its end."""

import errno
import os
import subprocess
import sys

from lazysif.fuse import session


def test_a_mount_that_cannot_be_tuned_is_served(monkeypatch, caplog):
    """Without a descriptor to spare, the directory for fusectl could not be removed, and that ended the daemon."""

    def starved(mountpoint):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(session, "find_mount", starved)
    session.tune("/mnt/images", 32)
    assert "/mnt/images is not tuned" in caplog.text


def test_being_told_to_end_when_serving_has_ended_is_no_crash():
    """The keeper's SIGTERM may come while the daemon writes its last blocks; they were lost, and fetched again."""
    program = "from lazysif.fuse import session; session.stop(); print('writes its last blocks')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "writes its last blocks\n")
