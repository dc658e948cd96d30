"""What is set on a mount beside serving it."""

import errno
import os

from lazysif.fuse import session


def test_a_mount_that_cannot_be_tuned_is_served(monkeypatch, caplog):
    """Without a descriptor to spare, the directory for fusectl could not be removed, and that ended the daemon."""

    def starved(mountpoint):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(session, "find_mount", starved)
    session.tune("/mnt/images", 32)
    assert "/mnt/images is not tuned" in caplog.text
