"""The bug report: one archive of texts, without secrets, gathered while anything may hang."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import msgspec

from lazysif import __version__
from lazysif.config.files import read_secret
from lazysif.config.parsers import secret_files
from lazysif.config.render import render
from lazysif.config.tables import Config
from lazysif.control.address import runtime_directory, sockets
from lazysif.control.client import fetch
from lazysif.core.scrub import scrub
from lazysif.doctor import apart, mounts, node
from lazysif.doctor.apart import Look
from lazysif.doctor.asked import Asked
from lazysif.doctor.examination import LOOKS_S, document, findings, looks, prepare
from lazysif.doctor.paths import OnOwnMount, lead
from lazysif.errors import LazysifError
from lazysif.log_setup import log_file

LOG_BYTES = 2 << 20
_SIZING_S = 4.0
_SHOWN_VARIABLES = (
    "LAZYSIF_RUNTIME_DIR",
    "LAZYSIF_KEEPER",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "XDG_RUNTIME_DIR",
    "PATH",
)
_SECRET_VARIABLE = re.compile(r"pass|secret|token|key|credential|auth|proxy|cookie", re.IGNORECASE)
_README = """\
A bug report of lazysif {version}, made at {time}.

Credentials, user names in URLs, queries of URLs and whatever looks like a token were taken out. Names of images,
hosts, directories, users and processes were not: look through the files before you send them.

doctor.json      what `lazysif doctor` says of the node
config.toml      the configuration in force, without secrets
status/          what each daemon says of itself; "error" where one did not answer
log/             the last 2 MB of each log
mounts.txt       FUSE mounts, and how many requests wait in the kernel
processes.txt    keepers and daemons: state, memory, where their threads wait
directories.txt  sizes of the cache and state directories
node.txt         kernel, distribution, versions, load, memory, names of settings in the environment
problems.txt     what could not be gathered, and why
"""


def gather(asked: Asked) -> dict[str, str]:
    """The texts of the report by their names, scrubbed; within 15 s. Raises: ConfigError."""
    prepared = prepare(asked)
    config = prepared.config or Config()
    examined = looks(prepared, asked.image)
    own: dict[str, Look] = {
        "node": _node,
        "mounts": _mounts,
        "processes": _processes,
        "directories": partial(_directories, (config.cache.dir, config.state.dir)),
        "logs": partial(_logs, log_file(config)),
        "secrets": partial(_secrets, config),
    }
    own |= {f"status {path.stem}": partial(_status, path) for path in sockets()}
    # a name of its own for each, as they run beside the doctor's
    seen = apart.look({**examined, **{f"report: {name}": look for name, look in own.items()}}, LOOKS_S)
    known = [str(secret) for secret in seen.pop("report: secrets").items]
    known += [
        part for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) for part in _parts(value)
    ]
    texts = {"config.toml": render(config)}
    problems = []
    for name in own.keys() - {"secrets"}:
        one = seen.pop(f"report: {name}")
        for item in one.items:
            assert isinstance(item, list)
            texts[str(item[0])] = texts.get(str(item[0]), "") + str(item[1])
        if one.error:
            problems.append(f"{name}: {one.error}")
    checked = document([*prepared.findings, *findings(seen)])
    texts["doctor.json"] = json.dumps(checked, indent=2, ensure_ascii=False)
    texts["problems.txt"] = "\n".join(sorted(problems)) or "none"
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    texts["README.txt"] = _README.format(version=__version__, time=now)
    # README.txt is ours from end to end: "token" could be somebody's password
    return {
        name: text if name == "README.txt" else _scrubbed(name, text, known)
        for name, text in sorted(texts.items())
    }


def _scrubbed(name: str, text: str, known: Iterable[str]) -> str:
    """JSON is scrubbed string by string first, so that programs can still read it, and then by its look alone:
    somebody's query has `raw=true`."""
    if name.endswith(".json"):
        text = json.dumps(_scrubbed_value(json.loads(text), known), indent=2, ensure_ascii=False)
        return scrub(text)
    return scrub(text, known)


def _scrubbed_value(value: object, known: Iterable[str]) -> object:
    match value:
        case str():
            return scrub(value, known)
        case list():
            return [_scrubbed_value(item, known) for item in value]
        case dict():
            return {scrub(key, known): _scrubbed_value(item, known) for key, item in value.items()}
        case _:
            return value


def write(texts: Mapping[str, str], path: Path) -> None:
    """Raises: OSError: it cannot be made, or is there already."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in texts.items():
            data = (text.rstrip("\n") + "\n").encode(errors="backslashreplace")
            entry = tarfile.TarInfo(f"lazysif-bugreport/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))


def may_write(path: Path) -> bool:
    """False on a mount of lazysif, which may hold the command for ever."""
    try:
        lead(path)
    except OnOwnMount:
        return False
    return True


# --- what is gathered ------------------------------------------------------------------------------------------


def _secrets(config: Config) -> Iterator[str]:
    """What must not be in the report, in whatever form. It goes through a pipe to our parent and nowhere else."""
    for uri in config.images.values():
        yield from _query(uri)
    for table in (config.traces, *config.remotes):
        for key, value in msgspec.structs.asdict(table).items():
            if key.endswith("url"):
                yield from _query(value)
        for file in secret_files(table):
            try:
                yield read_secret(file)
            except LazysifError:
                continue  # it cannot be read, so nothing of it can be in the report


def _parts(value: str) -> Iterator[str]:
    """A variable's value, and where it is a URL with a password, that alone."""
    yield value
    userinfo = value.rpartition("@")[0].rpartition("/")[2]
    if userinfo:
        yield userinfo.partition(":")[2]


def _query(url: str) -> Iterator[str]:
    query = url.partition("?")[2]
    if query:
        yield query
    for part in query.split("&"):
        value = part.partition("=")[2]
        yield from (value, unquote(value))


def _status(path: Path) -> Iterator[tuple[str, str]]:
    name = f"status/{path.stem}.json"
    try:
        text = json.dumps(json.loads(fetch(path, "/status")), indent=2)
    except (OSError, ValueError) as error:
        text = json.dumps({"error": str(error) or type(error).__name__, "socket": str(path)})
    yield name, text


def _node() -> Iterator[tuple[str, str]]:
    lines = [
        f"lazysif {__version__} on Python {platform.python_version()} ({sys.executable})",
        " ".join((os.uname().sysname, os.uname().release, os.uname().version, os.uname().machine)),
        node.read("/etc/os-release"),
        f"user {os.geteuid()}, runtime directory {runtime_directory()}",
        f"load {node.read('/proc/loadavg')}, up {node.read('/proc/uptime')}",
        *node.read("/proc/meminfo").splitlines()[:5],
    ]
    for name in ("cpu", "io", "memory"):
        lines += [f"pressure {name}: {line}" for line in node.read(f"/proc/pressure/{name}").splitlines()]
    lines += [f"{name}={os.environ[name]}" for name in _SHOWN_VARIABLES if name in os.environ]
    lines += [f"{name} is set" for name in node.proxy_variables(os.environ)]
    yield "node.txt", "\n".join(lines) + "\n"
    yield "node.txt", "".join(f"{line}\n" for line in _packages())


def _packages() -> Iterator[str]:
    try:
        required = importlib.metadata.requires("lazysif") or []
    except importlib.metadata.PackageNotFoundError:
        required = ["click", "diskcache", "httpx", "msgspec", "pyfuse3", "trio", "waitress", "zstandard"]
    names = {match[0] for line in required if "extra" not in line and (match := re.match(r"[\w.-]+", line))}
    for name in sorted({*names, "httpcore"}):
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is missing"


def _mounts() -> Iterator[tuple[str, str]]:
    name = "mounts.txt"
    yield name, "FUSE mounts that this process sees:\n"
    for line in Path("/proc/self/mountinfo").read_text(errors="backslashreplace").splitlines():
        if " - fuse" in line:
            yield name, f"{line}\n"
    for mounted in mounts.own_mounts():
        count = mounts.waiting(mounted)
        shown = "unknown (fusectl is not mounted, or belongs to another user)" if count is None else count
        yield name, f"{mounted.path}: waiting requests: {shown}\n"


def _processes() -> Iterator[tuple[str, str]]:
    for server in mounts.servers():
        base = Path(f"/proc/{server.pid}")
        wanted = re.compile(
            r"State|Tgid|PPid|TracerPid|Uid|FDSize|Vm(Peak|Size|RSS)|Threads|Sig(Pnd|Blk|Ign|Cgt)"
        )
        status = [line for line in node.read(base / "status").splitlines() if wanted.match(line)]
        lines = [f"{server.role} {server.pid} of {server.mountpoint}", *status]
        for task in sorted((base / "task").iterdir()):
            where = f"{node.read(task / 'comm')}, waits in {node.read(task / 'wchan') or 'an unknown place'}"
            lines.append(f"  thread {task.name}: {where}, call {node.read(task / 'syscall') or 'unknown'}")
            lines += [f"    {line}" for line in node.read(task / "stack").splitlines()]
        yield "processes.txt", "\n".join(lines) + "\n\n"
    yield "processes.txt", "end of the list\n"


def _directories(configured: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Sizes, without names of files. Where it takes long, what was counted so far."""
    found = dict.fromkeys(configured)
    for path in sockets():
        try:
            found[Path(json.loads(fetch(path, "/status"))["cache"]["directory"])] = None
        except (OSError, ValueError, KeyError):
            break  # the status says it
    for directory in found:
        try:
            yield "directories.txt", f"{directory}: {_size(Path(lead(directory)))}\n"
        except OnOwnMount:
            yield "directories.txt", f"{directory}: lies on a mount of lazysif\n"
        except OSError as error:
            yield "directories.txt", f"{directory}: {error.strerror}\n"


def _size(directory: Path) -> str:
    disk = os.statvfs(directory)
    deadline_s = time.monotonic() + _SIZING_S
    files = used_bytes = 0
    complete = True
    for folder, _, names in os.walk(directory):
        if time.monotonic() > deadline_s:
            complete = False
            break
        for name in names:
            try:
                used_bytes += os.lstat(os.path.join(folder, name)).st_blocks * 512
                files += 1
            except FileNotFoundError:
                continue
    return (
        f"{'' if complete else 'at least '}{used_bytes} bytes in {files} files; file system: "
        f"{disk.f_bavail * disk.f_frsize} of {disk.f_blocks * disk.f_frsize} bytes free, {disk.f_favail} inodes free"
    )


def _logs(configured: Path) -> Iterator[tuple[str, str]]:
    files = dict.fromkeys([str(configured), *_open_logs()])
    for number, file in enumerate(files):
        try:
            real = lead(file)
            text = _tail(Path(real))
        except OnOwnMount:
            continue
        except OSError as error:
            text = f"{file}: {error.strerror}\n"
        yield f"log/{number}-{Path(file).name}", f"# {file}\n{text}"


def _open_logs() -> Iterator[str]:
    """Logs that running keepers and daemons write to, wherever they were told to."""
    for server in mounts.servers():
        try:
            descriptors = list(Path(f"/proc/{server.pid}/fd").iterdir())
        except OSError:
            continue  # another user's
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("/") and target.endswith(".log"):
                yield target


def _tail(file: Path) -> str:
    """The last `LOG_BYTES` of a log and the one before it, from the beginning of a line."""
    whole = b""
    for path in (file, file.with_name(file.name + ".1")):
        wanted = LOG_BYTES - len(whole)
        if wanted <= 0 or (path != file and not path.exists()):
            break
        with open(path, "rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - wanted))
            piece = opened.read(wanted)
        whole = (piece if size <= wanted else piece.partition(b"\n")[2]) + whole
    return whole.decode(errors="backslashreplace")
