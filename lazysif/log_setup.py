"""Where the log of a daemon goes."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from lazysif.config.tables import Config
from lazysif.errors import LocalDirectoryError

_LOG_BYTES = 10 << 20


def log_file(config: Config) -> Path:
    """The log of a daemon in the background."""
    return config.log.file or config.state.dir / "lazysif.log"


def make_log_directory(config: Config) -> None:
    """Raises: LocalDirectoryError."""
    directory = log_file(config).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalDirectoryError(f"cannot make log directory {directory}: {error.strerror}") from error


def set_up_log(config: Config, *, foreground: bool) -> None:
    """Log to standard error, or to the configured file, kept below 40 MiB by rotation."""
    if foreground and config.log.file is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        file = log_file(config)
        make_log_directory(config)
        try:
            handler = logging.handlers.RotatingFileHandler(file, maxBytes=_LOG_BYTES, backupCount=3)
        except OSError as error:
            raise LocalDirectoryError(f"cannot write log file {file}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=config.log.level.upper(), handlers=[handler], force=True)
    logging.getLogger("pyfuse3").addFilter(_is_trouble)
    # at INFO httpx writes every URL, signatures included
    for name in ("httpx", "httpcore", "waitress"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _is_trouble(record: logging.LogRecord) -> bool:
    """False for replies to a request that a predecessor has answered: after a restart the kernel asks twice."""
    return "fuse_reply_* failed with No such file or directory" not in record.getMessage()
