"""Looks at the node itself: kernel, FUSE, limits, Apptainer, units. Reads files and runs `apptainer buildcfg`."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lazysif.config.tables import Config
from lazysif.core.diagnosis import node as diagnosis
from lazysif.core.diagnosis.apptainer import ApptainerFacts, conf_values, installation
from lazysif.core.diagnosis.finding import Finding
from lazysif.doctor.paths import lies_below, own_mountpoints
from lazysif.fuse.mountinfo import mounts
from lazysif.transport.split import libcurl

FUSE_DEVICE = "/dev/fuse"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_COMMAND_S = 5.0
_BASE_FILES = 128
"""Of a daemon without remotes: threads' databases, sockets, the log, /dev/fuse."""
_UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")


def read(path: str | Path) -> str:
    """A small file's text, "" where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = read(path)
    return int(text) if text.isdigit() else 0


def kernel(config: Config) -> Iterator[Finding]:
    yield diagnosis.kernel(os.uname().release)
    sysctl = "/proc/sys/fs/fuse/"
    yield diagnosis.request_timeouts(
        _number(sysctl + "default_request_timeout"),
        _number(sysctl + "max_request_timeout"),
        max(config.limits.read_timeout, config.limits.lookup_timeout),
    )


def fuse(config: Config) -> Iterator[Finding]:
    as_root = os.geteuid() == 0
    yield _fuse_device()
    path = _which("fusermount3")
    setuid = bool(path) and (status := os.stat(path)).st_uid == 0 and bool(status.st_mode & stat.S_ISUID)
    yield diagnosis.fusermount(path, setuid, as_root)
    mounted = mounts()
    yield diagnosis.fuse_conf(
        read("/etc/fuse.conf"),
        as_root=as_root,
        wants_allow_other="allow_other" in config.mount.options,
        fuse_mounts=sum(mount.kind.startswith("fuse") and mount.kind != "fusectl" for mount in mounted),
    )
    yield diagnosis.fusectl(any(mount.kind == "fusectl" for mount in mounted))


def _fuse_device() -> Finding:
    try:
        mode = stat.S_IMODE(os.stat(FUSE_DEVICE).st_mode)
    except OSError:
        return diagnosis.fuse_device(None, "")
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return diagnosis.fuse_device(mode, str(error.strerror))
    return diagnosis.fuse_device(mode, "")


def surroundings(config: Config) -> Iterator[Finding]:
    needed = _BASE_FILES + sum(2 * config.limits.connections + 24 for _ in config.remotes)
    yield diagnosis.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], needed)
    yield diagnosis.bulk(libcurl())
    yield diagnosis.proxies(proxy_variables(os.environ))
    yield diagnosis.access_control(
        selinux=read("/sys/fs/selinux/enforce") == "1",
        apparmor=read("/sys/module/apparmor/parameters/enabled") == "Y",
        userns_restricted=read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
    )


def proxy_variables(environment: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environment if name.lower() in _PROXIES and environment[name])


# --- Apptainer -------------------------------------------------------------------------------------------------


def apptainer(mountpoints: list[str]) -> Iterator[Finding]:
    yield from installation(_apptainer_facts(), mountpoints)


def _apptainer_facts() -> ApptainerFacts | None:
    program = _which("apptainer") or _which("singularity")
    if not program:
        return None
    lines = (line.partition("=") for line in _said_by(program, "buildcfg").splitlines())
    build = {re.sub("^(APPTAINER|SINGULARITY)_", "", name): value for name, _, value in lines}
    conf = build.get("CONF_FILE") or "/etc/apptainer/apptainer.conf"
    helpers = f"{build.get('LIBEXECDIR', '/usr/libexec')}/apptainer/bin"
    starter = Path(helpers) / "starter-suid"
    is_setuid = starter.exists() and bool(starter.stat().st_mode & stat.S_ISUID)
    conf_text = read(conf)
    squashfuse = _which("squashfuse_ll") or _which("squashfuse_ll", helpers)
    return ApptainerFacts(
        version=_said_by(program, "--version") or program,
        setuid=is_setuid and conf_values(conf_text, "allow setuid") != ["no"],
        user_namespaces=read("/proc/sys/user/max_user_namespaces") != "0"
        and read("/proc/sys/kernel/unprivileged_userns_clone") != "0",
        squashfuse=squashfuse,
        conf=conf_text,
    )


def _which(program: str, path: str | None = None) -> str:
    """Like which(1), without looking into mounts of lazysif that are on the way."""
    ours = own_mountpoints()
    given = path or f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/usr/sbin:/sbin"
    safe = [part for part in given.split(":") if part.startswith("/") and not lies_below(part, ours)]
    return shutil.which(program, path=":".join(safe)) or ""


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- units -----------------------------------------------------------------------------------------------------


def units(
    directories: tuple[str, ...] = _UNIT_DIRECTORIES, autofs_map: str = "/etc/auto.master.d"
) -> Iterator[Finding]:
    """KillMode of the units that start daemons: those that name lazysif, and autofs where a map of ours is."""
    texts: dict[str, str] = {}
    for directory in reversed(directories):  # what is in /etc counts last
        for file in sorted(Path(directory).glob("*.service")):
            texts[file.name] = read(file)
    for directory in reversed(directories):
        for file in sorted(Path(directory).glob("*.service.d/*.conf")):
            unit = file.parent.name.removesuffix(".d")
            texts[unit] = texts.get(unit, "") + "\n" + read(file)
    with_map = any("lazysif" in read(file) for file in Path(autofs_map).glob("*.autofs"))
    for unit, text in sorted(texts.items()):
        if (unit == "autofs.service" and with_map) or re.search(
            r"^Exec\w+=.*\blazysif\b", text, re.MULTILINE
        ):
            modes = re.findall(r"^KillMode\s*=\s*(\S+)", text, re.MULTILINE)
            yield diagnosis.kill_mode(unit, modes[-1] if modes else "")
