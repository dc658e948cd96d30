"""The mount helpers as the system calls them: mount(8), an fstab line, a running automount."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.images import BuiltImage
from tests.support.mount import REPOSITORY, Mount, mounted_at, scrubbed_environment, wait_until
from tests.support.nginx import Nginx

pytestmark = pytest.mark.mounted

HELPERS = REPOSITORY / "mount-helpers"
INSTALLED = Path("/sbin/mount.lazysif")
MakeMount = Callable[..., Mount]


@pytest.fixture
def mount_helper() -> Iterator[None]:
    """mount(8) looks for helpers in /sbin alone."""
    if os.geteuid() != 0:
        pytest.skip("only root may install a mount helper")
    if INSTALLED.exists():
        pytest.skip(f"{INSTALLED} is there already, and it is not for a test to replace it")
    INSTALLED.symlink_to(HELPERS / "mount.lazysif")
    yield
    INSTALLED.unlink()


@pytest.fixture
def unmounted(lazysif: MakeMount, nginx: Nginx, small_image: BuiltImage) -> Mount:
    """A place to mount an origin with one image at; not mounted yet, and cleaned up by `lazysif`."""
    (nginx.root / "a.sif").symlink_to(small_image.path)
    mount = lazysif(nginx.url, start=False)
    mount.path.mkdir(parents=True)
    return mount


def environment_of(mount: Mount, **changes: str) -> dict[str, str]:
    return scrubbed_environment(
        LAZYSIF_RUNTIME_DIR=str(mount.runtime_dir),
        LAZYSIF_COMMAND=str(Path(sys.executable).with_name("lazysif")),
        **changes,
    )


def run(mount: Mount, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd="/",  # where a file has the name of the source, mount(8) takes it for that file
        env=environment_of(mount),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def directories(mount: Mount) -> str:
    return f"cache_dir={mount.cache_dir},state_dir={mount.state_dir}"


def test_mount_and_umount_by_type(unmounted: Mount, mount_helper: None, small_image: BuiltImage) -> None:
    options = f"ro,_netdev,nofail,x-systemd.mount-timeout=30,{directories(unmounted)}"
    done = run(unmounted, "mount", "-t", "lazysif", unmounted.source or "", unmounted.path, "-o", options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unmounted.adopt()
    assert (unmounted.path / "a.sif").read_bytes() == small_image.data
    options += ",remount"
    done = run(unmounted, "mount", "-t", "lazysif", unmounted.source or "", unmounted.path, "-o", options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run(unmounted, "umount", unmounted.path).returncode == 0
    unmounted.check_gone()


@pytest.mark.parametrize("configured", [True, False])
def test_fstab_lines(unmounted: Mount, mount_helper: None, small_image: BuiltImage, configured: bool) -> None:
    source, options, image = unmounted.source, f"_netdev,nofail,{directories(unmounted)}", "a.sif"
    if configured:
        config = unmounted.root / "config.toml"
        config.write_text(f'[remote.shub]\nkind = "http"\nurl = "{unmounted.source}"\n')
        source, options, image = "lazysif", f"config={config},{options}", "shub/a.sif"
    fstab = unmounted.root / "fstab"
    fstab.write_text(f"{source} {unmounted.path} lazysif {options} 0 0\n")
    for _ in range(2):  # `mount -a` of what is mounted is no error
        done = run(unmounted, "mount", "--fstab", fstab, "--all")
        assert (done.returncode, done.stderr) == (0, "")
    unmounted.adopt()
    assert mounted_at(unmounted.path) == 1
    assert (unmounted.path / image).read_bytes() == small_image.data


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("http://127.0.0.1:1/", "no_such_option", "no_such_option: unknown mount option"),
        ("ftp://example.invalid/", "ro", "lazysif: "),
        ("lazysif", "config=/no/such/file", "/no/such/file"),
    ],
)
def test_refusals_are_one_line(
    unmounted: Mount, mount_helper: None, source: str, options: str, said: str
) -> None:
    options = f"{options},{directories(unmounted)}"
    done = run(unmounted, "mount", "-t", "lazysif", source, unmounted.path, "-o", options)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not unmounted.is_mounted()


def test_fake_mount_does_nothing(unmounted: Mount, mount_helper: None) -> None:
    assert (
        run(unmounted, "mount", "--fake", "-t", "lazysif", unmounted.source or "", unmounted.path).returncode
        == 0
    )
    assert not unmounted.is_mounted()


class Automount:
    """A real automount over a private master map, with two remotes that are one origin."""

    def __init__(self, mount: Mount, program: str) -> None:
        self.mount = mount
        self.top = mount.root / "auto"
        root = mount.root
        config = root / "config.toml"
        config.write_text(
            f'[cache]\ndir = "{mount.cache_dir}"\n[state]\ndir = "{mount.state_dir}"\n'
            f'[remote.shub]\nkind = "http"\nurl = "{mount.source}"\n'
            f'[remote.bio]\nkind = "http"\nurl = "{mount.source}"\n'
        )
        (root / "auto.master").write_text(f"{self.top} program:{HELPERS / 'auto.lazysif'} --timeout=600\n")
        self.environment = environment_of(
            mount,
            LAZYSIF_CONFIG=str(config),
            LAZYSIF_TREE=str(mount.path),
        )
        self._output = (root / "automount.log").open("w+")
        # a session of its own: what runs in automount's process group triggers no mounts
        self._process = subprocess.Popen(
            [
                program,
                "--foreground",
                "--verbose",
                "--pid-file",
                str(root / "automount.pid"),
                root / "auto.master",
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def log(self) -> str:
        return (self.mount.root / "automount.log").read_text()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


@pytest.fixture
def automount(unmounted: Mount, tool: Callable[[str], str]) -> Iterator[Automount]:
    if os.geteuid() != 0:
        pytest.skip("automount needs root")
    running = Automount(unmounted, tool("automount"))
    try:
        wait_until(lambda: mounted_at(running.top) == 1, f"automount does not start: {running.log()}")
        yield running
    finally:
        running.close()


def test_keys_share_one_daemon(automount: Automount, nginx: Nginx, small_image: BuiltImage) -> None:
    mount = automount.mount
    for key in ("shub", "bio"):
        assert (automount.top / key / "a.sif").read_bytes() == small_image.data, automount.log()
    mount.adopt()
    assert mounted_at(mount.path) == 1
    # the second key costs a look at the first block under its name, and no more
    assert nginx.bytes_sent("/a.sif") <= len(small_image.data) + 128 * 1024


def test_keys_that_are_no_remotes(automount: Automount) -> None:
    mount = automount.mount
    for key in ("none", "-o", "a;b", "..hidden"):
        assert not (automount.top / key).exists()
    assert (automount.top / "shub/a.sif").exists(), automount.log()
    mount.adopt()


def test_a_killed_daemon_is_replaced(automount: Automount, small_image: BuiltImage) -> None:
    mount = automount.mount
    assert (automount.top / "shub/a.sif").exists(), automount.log()
    mount.adopt()
    mount.kill()
    assert (automount.top / "bio/a.sif").read_bytes() == small_image.data, automount.log()
    mount.adopt()
    assert (automount.top / "shub/a.sif").read_bytes() == small_image.data, automount.log()


@pytest.mark.parametrize("key", ["../etc", "a/b", "-bind", ".x", "a b", "a\nb", "*", "$(id)"])
def test_the_map_refuses_keys_that_are_no_names(tmp_path: Path, key: str) -> None:
    marker = tmp_path / "called"
    command = tmp_path / "lazysif"
    command.write_text(f"#!/bin/sh\ntouch {marker}\n")
    command.chmod(0o755)
    environment = scrubbed_environment(LAZYSIF_COMMAND=str(command), LAZYSIF_TREE=str(tmp_path / "tree"))
    done = subprocess.run(
        [HELPERS / "auto.lazysif", key], env=environment, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, marker.exists()) == (1, "", False)


# --- systemd -------------------------------------------------------------------------------------------------

UNIT = HELPERS / "lazysif.service"
PRIVATE_NAMESPACE = re.compile(
    r"(Private(Tmp|Devices|Mounts|Users|IPC)|Protect\w+|(Read(Only|Write)|Inaccessible|Exec|NoExec)Paths|"
    r"TemporaryFileSystem|Bind(ReadOnly)?Paths|Root(Directory|Image)|MountFlags|DynamicUser|RuntimeDirectory)="
)
"""Each of them hides the mount from jobs; RuntimeDirectory= takes the control socket away at a restart."""


def test_systemd_takes_the_unit(tmp_path: Path, tool: Callable[[str], str]) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/libexec", str(HELPERS)))
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", unit], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_leaves_the_mount_to_jobs() -> None:
    lines = [line for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    assert "KillMode=process" in lines
    assert "OOMPolicy=continue" in lines
    assert not [line for line in lines if PRIVATE_NAMESPACE.match(line) or line.startswith("ExecStop")]


class Service:
    """What systemd does with the unit: it runs one command, and at a stop nothing."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.config = mount.root / "config.toml"
        self.configure("shub")

    def configure(self, *names: str) -> None:
        mount = self.mount
        remotes = (f'[remote.{name}]\nkind = "http"\nurl = "{mount.source}"\n' for name in names)
        directories = f'[cache]\ndir = "{mount.cache_dir}"\n[state]\ndir = "{mount.state_dir}"\n'
        self.config.write_text(directories + "".join(remotes))

    def up(self) -> subprocess.CompletedProcess[str]:
        settings = {"LAZYSIF_CONFIG": str(self.config), "LAZYSIF_MOUNTPOINT": str(self.mount.path)}
        return subprocess.run(
            [HELPERS / "lazysif-up"],
            env=environment_of(self.mount, **settings),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def service(unmounted: Mount) -> Service:
    service = Service(unmounted)
    done = service.up()
    assert (done.returncode, done.stderr) == (0, "")
    unmounted.adopt()
    return service


def test_a_restart_of_the_service_keeps_jobs(service: Service, small_image: BuiltImage) -> None:
    mount = service.mount
    old, keeper = mount.pid, mount.keeper_pid
    with (mount.path / "shub/a.sif").open("rb", buffering=0) as opened:
        service.configure("shub", "bio")
        assert service.up().returncode == 0
        mount.adopt()
        assert mount.pid != old
        assert (mount.keeper_pid, mounted_at(mount.path)) == (keeper, 1)
        assert opened.readall() == small_image.data
    assert (mount.path / "bio/a.sif").read_bytes() == small_image.data


def test_a_restart_with_a_wrong_configuration_leaves_all_as_it_is(
    service: Service, small_image: BuiltImage
) -> None:
    service.config.write_text("nonsense")
    done = service.up()
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert service.mount.status()["pid"] == service.mount.pid
    assert (service.mount.path / "shub/a.sif").read_bytes() == small_image.data


def test_a_start_over_a_dead_mount_mounts_anew(service: Service, small_image: BuiltImage) -> None:
    mount = service.mount
    os.kill(mount.keeper_pid, signal.SIGKILL)
    mount.kill()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.stat(mount.path)
    assert service.up().returncode == 0
    assert mounted_at(mount.path) == 1
    assert (mount.adopt().path / "shub/a.sif").read_bytes() == small_image.data
