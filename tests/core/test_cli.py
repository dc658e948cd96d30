"""The command line: options, exit codes, and errors in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lazysif import errors, keeper
from lazysif.cli import mount as cli_mount
from lazysif.cli import status as cli_status
from lazysif.cli import umount as cli_umount
from lazysif.cli import warm as cli_warm
from lazysif.cli.main import exit_code
from lazysif.cli.mount import Mounted, MountRequest, check_mountpoint, split_options
from lazysif.control.address import mounted_file
from lazysif.errors import ConfigError, LazysifError, LocalDirectoryError, MountError
from lazysif.fuse.mountinfo import MountedAt

CONFIG = """\
[remote.shub]
kind = "http"
url = "https://user-images.example/sif?sig=secret"
"""


@pytest.fixture
def lazysif(tmp_path):
    """Runs the command as people do, with a runtime directory of its own."""
    (tmp_path / "run").mkdir(mode=0o700)

    def run(*arguments, runtime_dir=tmp_path / "run", before="", stdout=subprocess.PIPE, **changes):
        """`before`: what a shell does first; `changes`: of the environment."""
        here = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": here, "LAZYSIF_RUNTIME_DIR": str(runtime_dir), **changes}
        shell = ["sh", "-c", f'{before}; exec "$@"', "sh"] if before else []
        return subprocess.run(
            [*shell, sys.executable, "-m", "lazysif", *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=30,
            check=False,
        )

    return run


def fails(done, code, *words):
    """One line on standard error that holds `words`, nothing on standard output, and the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in ("lazysif: ", *words):
        assert word in done.stderr


# --- -o ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "settings", "fuse"),
    [
        ((), {}, []),
        (("",), {}, []),
        (("ro,noauto, _netdev ,user",), {}, []),
        (("x-systemd.automount,comment=x,X-mount.mkdir",), {}, []),
        (("allow_other", "ro"), {}, ["allow_other"]),
        (("cache_size=50%,min_free=5%",), {"cache.size": "50%", "cache.min_free": "5%"}, []),
        (
            ("config=/etc/a=b.toml", "state_dir=/s,log_level=debug"),
            {"config": "/etc/a=b.toml", "state.dir": "/s", "log.level": "debug"},
            [],
        ),
        (("block_size=1MiB,block_size=2MiB",), {"cache.block_size": "2MiB"}, []),
    ],
)
def test_options(given, settings, fuse):
    assert split_options(given) == (settings, fuse)


@pytest.mark.parametrize(
    "option", ["cache_sise=1", "cache_size", "cache_size=", "allow_other=1", "max_read=1", "=x"]
)
def test_options_that_cannot_be_meant(option):
    with pytest.raises(ConfigError, match="unknown mount option") as raised:
        split_options((option,))
    assert "cache_size=" in raised.value.hint


# --- mountpoints ---------------------------------------------------------------------------------


def test_a_mountpoint_is_a_directory(tmp_path):
    assert check_mountpoint(f"{tmp_path}/../{tmp_path.name}/") == str(tmp_path)
    (tmp_path / "file").touch()
    for name in ("missing", "file", "file/below"):
        with pytest.raises(MountError, match="not a directory"):
            check_mountpoint(str(tmp_path / name))


def test_a_link_on_the_way_is_followed_and_the_mountpoint_itself_not_touched(tmp_path):
    (tmp_path / "real/m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert check_mountpoint(str(tmp_path / "link/m")) == str(tmp_path / "real/m")


@pytest.mark.parametrize(
    ("kind", "refused"), [("fuse.lazysif", True), ("ext4", False), ("fuse.sshfs", False)]
)
def test_a_mountpoint_of_ours_is_not_mounted_over(tmp_path, monkeypatch, kind, refused):
    mounted = MountedAt(str(tmp_path), "0:9", kind, "https://h/")
    monkeypatch.setattr(cli_mount, "find_mount", lambda path: mounted if path == str(tmp_path) else None)
    if not refused:
        assert check_mountpoint(str(tmp_path)) == str(tmp_path)
        return
    with pytest.raises(MountError, match="mounted already, from https://h/"):
        check_mountpoint(str(tmp_path))


def test_a_mountpoint_that_is_not_utf_8(lazysif, tmp_path):
    """Regression: every command that was given one ended with a traceback."""
    path = tmp_path / os.fsdecode(b"m\xff")
    path.mkdir()
    fails(lazysif("mount", "https://h/", path), 3, "m\\udcff is not UTF-8; choose another directory")
    for command in ("status", "umount", "reload", "upgrade"):
        fails(lazysif(command, path), 3, str(tmp_path), "m\\udcff")
    assert not list((tmp_path / "run").iterdir())


def test_an_empty_mountpoint_is_not_the_working_directory(lazysif):
    for command in ("umount", "status", "reload", "upgrade"):
        fails(lazysif(command, ""), 3, "the name of the mountpoint is empty")
    fails(lazysif("mount", "https://h/", ""), 3, "the name of the mountpoint is empty")
    for command in ("doctor", "bugreport"):
        fails(lazysif(command, ""), 2, "the name of the mountpoint is empty")


# --- directories, and what lies in them ----------------------------------------------------------


@pytest.mark.parametrize("option", ["--cache-dir", "--state-dir"])
def test_a_directory_that_is_not_utf_8_cannot_be_configured(lazysif, tmp_path, option):
    """Regression: the configuration cannot hold one; `mount` ended with a traceback and left an empty file behind."""
    (tmp_path / "m").mkdir()
    directory = tmp_path / os.fsdecode(b"d\xff")
    done = lazysif("mount", option, directory, "https://h/", tmp_path / "m")
    fails(done, 2, f"{option[2:-4]}.dir: ", 'd\\udcff" is not UTF-8: name another path')
    assert not list((tmp_path / "run").iterdir())
    assert not directory.exists()


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        (("mount", "https://h/", "/mnt"), "--cache-dir", "cache.dir: the path is empty"),
        (("mount", "https://h/", "/mnt"), "--state-dir", "state.dir: the path is empty"),
        (("doctor",), "--cache-dir", "cache.dir: the path is empty"),
        (("bugreport",), "--state-dir", "state.dir: the path is empty"),
        (("fsck",), "--cache-dir", "--cache-dir is empty; name a directory, or leave it out"),
        (("trace", "list"), "--state-dir", "--state-dir is empty; name a directory, or leave it out"),
        (("trace", "forget", "--all"), "--state-dir", "--state-dir is empty"),
    ],
)
def test_an_empty_directory_option_is_not_the_working_directory(lazysif, command, option, said):
    """Regression: `fsck` and `trace` took the working directory."""
    fails(lazysif(*command, option, ""), 2, said)


def test_what_was_mounted_is_noted_whole_or_not_at_all(lazysif, tmp_path, monkeypatch):
    """Regression: where it could not be written an empty file stayed, under a traceback."""
    (tmp_path / "m").mkdir()
    command = ("mount", "--state-dir", tmp_path / "state", "https://h/", tmp_path / "m")
    fails(lazysif(*command, before="ulimit -f 0"), 4, ".mounted cannot be written: File too large")
    assert not list((tmp_path / "run").iterdir())

    monkeypatch.setenv("LAZYSIF_RUNTIME_DIR", str(tmp_path / "run"))
    first = Mounted(MountRequest("", os.fsdecode(b"/x/\xff.toml"), {}, ["allow_other"]), "[cache]\n", False)
    first.write("/m")
    assert Mounted.read("/m") == first, "the file's name need not be UTF-8"
    assert mounted_file("/m").stat().st_mode & 0o777 == 0o600
    for damaged in (b"", b"\xff", b"[]", b'{"request": 1}'):
        mounted_file("/m").write_bytes(damaged)
        assert Mounted.read("/m") is None


def test_a_working_directory_that_is_gone(lazysif, tmp_path):
    """Regression: what was named relative to it ended with a traceback."""
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone"
    config = ("mount", "--config", "x.toml", tmp_path)
    for command in (("status", "m"), ("warm", "a.sif"), ("fsck", "--cache-dir", "c"), ("bugreport",), config):
        fails(lazysif(*command, before=gone), 1, "the working directory is gone; change to another one")
    assert lazysif("status", before=gone).returncode == 0


# --- exit codes ----------------------------------------------------------------------------------


def test_exit_codes_by_kind():
    kinds = {kind: exit_code(kind("x")) for kind in (ConfigError, MountError, LocalDirectoryError)}
    assert kinds == {ConfigError: 2, MountError: 3, LocalDirectoryError: 4}
    others = set(LazysifError.__subclasses__()) - kinds.keys() | {errors.SourceUnavailable}
    assert {exit_code(kind("x")) for kind in others} == {1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("mount",),
        ("mount", "https://h/"),
        ("mount", "a", "b", "c"),
        ("mount", "--no-such"),
        ("status", "a", "b"),
        ("frobnicate",),
    ],
)
def test_usage_is_2(lazysif, arguments):
    done = lazysif(*arguments)
    assert done.returncode == 2
    assert "Usage: lazysif" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_mounted_is_said_in_one_line(lazysif, tmp_path):
    fails(lazysif("mount", "ftp://h/", tmp_path), 2, 'scheme "ftp"')
    fails(lazysif("mount", "-o", "nonsense", "https://h/", tmp_path), 2, "nonsense", "known are")
    fails(lazysif("mount", "--cache-size", "many", "https://h/", tmp_path), 2, "cache.size", "many")
    fails(lazysif("mount", "--config", tmp_path / "no.toml", tmp_path), 2, "no.toml", "cannot be read")
    fails(lazysif("mount", "https://h/", tmp_path / "missing"), 3, "missing", "mkdir -p")
    fails(lazysif("umount", tmp_path), 3, str(tmp_path))


@pytest.mark.parametrize("foreground", [True, False])
def test_directories_are_4(lazysif, tmp_path, foreground):
    for name in ("m", "state", "cache"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "cache").chmod(0o777)
    directories = ("--cache-dir", tmp_path / "cache", "--state-dir", tmp_path / "state")
    done = lazysif("mount", *["--foreground"] * foreground, *directories, "https://h/", tmp_path / "m")
    if not foreground:
        fails(done, 4, "can be written by other users", "chmod go-w")
        return
    # the log goes to the same place
    assert done.returncode == 4
    assert "can be written by other users; run chmod go-w" in done.stderr
    assert "Traceback" not in done.stderr


# --- config --------------------------------------------------------------------------------------


def test_config_check(lazysif, tmp_path):
    file = tmp_path / "lazysif.toml"
    file.write_text(CONFIG)
    done = lazysif("config", "check", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: fine\n", "")

    file.write_text(CONFIG + 'revalidat = "1m"\nmode = "rwx"\n')
    done = lazysif("config", "check", file)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert f"{file}:4: remote.shub.revalidat" in first
    assert f"{file}:5: remote.shub.mode" in second

    done = lazysif("config", "check", tmp_path / "missing.toml")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr


def test_config_show(lazysif, tmp_path):
    file = tmp_path / "lazysif.toml"
    file.write_text(CONFIG)
    done = lazysif("config", "show", "--config", file)
    assert done.returncode == 0
    assert "[remote.shub]" in done.stdout
    assert "secret" not in done.stdout
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout)
    assert lazysif("config", "check", shown).returncode == 0, "what is shown is a configuration"

    # Regression: only the query of a remote's url was hidden
    file.write_text(f'{CONFIG}\n[traces]\nurl = "https://traces.example/t?sig=secret"\n')
    done = lazysif("config", "show", "--config", file)
    assert 'url = "https://traces.example/t"  # and a query, not shown' in done.stdout
    assert "secret" not in done.stdout

    assert "[cache]" in lazysif("config", "show").stdout
    assert 'url = "https://h/images"' in lazysif("config", "show", "https://h/images").stdout
    fails(lazysif("config", "show", "gopher://h/"), 2, 'scheme "gopher"')


# --- status --------------------------------------------------------------------------------------


def test_status_of_nothing(lazysif, tmp_path):
    fails(lazysif("status", tmp_path), 3, "no lazysif is mounted at", str(tmp_path))
    done = lazysif("status", "--json", tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"mounts": [], "not_answering": []}


def status_of(**changes):
    """What a daemon says of itself, in parts."""
    return {
        "mountpoint": "/lazysif",
        "source": "lazysif",
        "pid": 7,
        "cache": {"state": "normal", "used_bytes": 1 << 30, "limit_bytes": 2 << 30, "free_bytes": 3 << 30},
        "counters": dict.fromkeys(
            ("served_bytes", "read_requests", "fetched_bytes", "fetch_requests", "errors"), 0
        ),
        "remotes": [{"name": "bio", "offline_since": None, "last_error": ""}],
        "requests": {"in_hand": {}, "oldest_s": 0.0, "waiting_reads": 0},
        "images": [],
        **changes,
    }


def shown(document, monkeypatch, capsys):
    monkeypatch.setattr(cli_status, "_ask", lambda mountpoint: ([document], []))
    assert cli_status.status_command.main([], standalone_mode=False) == 0
    return capsys.readouterr().out


def test_status_tells_since_when_an_origin_is_offline_and_why(monkeypatch, capsys):
    assert "offline" not in shown(status_of(), monkeypatch, capsys)
    since, why = "2026-01-02T03:04:05+00:00", "no connection to https://images.example/ " + "x" * 200
    remotes = [
        {"name": "bio", "offline_since": None, "last_error": "an old one"},
        {"name": "shub", "offline_since": since, "last_error": why},
    ]
    out = shown(status_of(remotes=remotes), monkeypatch, capsys)
    assert f"shub is offline since {since}: {why}\n" in out, "in one line, for grep"
    assert "an old one" not in out
    remotes = [{"name": "", "offline_since": since, "last_error": why}]
    assert f"origin is offline since {since}" in shown(status_of(remotes=remotes), monkeypatch, capsys)


def test_status_shows_names_and_errors_as_they_are(monkeypatch, capsys):
    """Regression: they were taken for markup: a file `a].sif` in a directory `x[` ended the command with a traceback,
    and `tool[v1].sif` was listed as `tool.sif`."""
    figures = {"size_bytes": 10, "cached_bytes": 0, "open_handles": 0, "origin": "http://[::1]/[/c]"}
    images = [
        {"name": name, **figures, "last_error": f"404 for {name}"} for name in ("x[/a].sif", "tool[v1].sif")
    ]
    remotes = [{"name": "[/b]", "offline_since": "2026", "last_error": "no https://[fd00::1]/ [/d] :smile:"}]
    monkeypatch.setenv("COLUMNS", "200")
    out = shown(status_of(images=images, remotes=remotes), monkeypatch, capsys)
    assert "[/b] is offline since 2026: no https://[fd00::1]/ [/d] :smile:" in out
    for image in images:
        assert f" {image['name']} " in out
        assert f"last error: {image['last_error']}" in out
    assert "http://[::1]/[/c]" in out


def test_status_tells_which_mirrors_and_proxies_are_left_alone(monkeypatch, capsys):
    ways = [
        {"name": "http://cache1:3128", "state": "resting", "last_error": "no connection to the proxy"},
        {"name": "direct", "state": "ready", "last_error": "an old one"},
    ]
    remotes = [{"name": "bio", "offline_since": None, "last_error": "", "ways": ways}]
    out = shown(status_of(remotes=remotes), monkeypatch, capsys)
    assert "bio: http://cache1:3128 is left alone: no connection to the proxy\n" in out
    assert "an old one" not in out


def test_status_tells_of_requests_that_wait(monkeypatch, capsys):
    young = {"in_hand": {"read": 2}, "oldest_s": 0.9, "waiting_reads": 2}
    assert "in hand" not in shown(status_of(requests=young), monkeypatch, capsys)
    old = {"in_hand": {"read": 200, "lookup": 3}, "oldest_s": 17.6, "waiting_reads": 200}
    out = shown(status_of(requests=old), monkeypatch, capsys)
    assert "203 requests in hand, the oldest for 18 s\n" in out


# --- output --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("--help",), ("config", "show"), ("status", "--json"), ("trace", "list"), ("doctor",)]
)
def test_standard_output_that_takes_nothing(lazysif, tmp_path, command):
    """Regression: a traceback, and none of it said that it was about standard output. `doctor` prints by rich."""
    with open("/dev/full", "w") as full:
        done = lazysif(*command, stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        "lazysif: standard output cannot be written: No space left on device; send it somewhere else\n",
    )


def test_standard_output_that_takes_no_more_than_its_buffer(lazysif, tmp_path):
    file = tmp_path / "lazysif.toml"
    file.write_text("".join(CONFIG.replace("shub", f"shub{number}") for number in range(100)))
    with open("/dev/full", "w") as full:
        done = lazysif("config", "show", "--config", file, stdout=full)
    assert done.returncode == 1
    assert "standard output cannot be written: No space" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("--help",), ("config", "show"), ("doctor",)])
def test_a_reader_that_is_gone_is_no_error_to_tell_of(lazysif, command):
    reader, writer = os.pipe()
    os.close(reader)
    done = lazysif(*command, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_names_that_are_no_text_are_shown_escaped(lazysif, tmp_path):
    """Regression: they ended the command with a traceback where standard output is strict."""
    file = tmp_path / os.fsdecode(b"\xff.toml")
    file.write_text(CONFIG)
    done = lazysif("config", "check", file, PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/\\udcff.toml: fine\n", "")


def test_doctor_does_not_blame_the_configuration_for_a_mountpoint(lazysif, tmp_path):
    """Regression: "configuration: None: UnicodeEncodeError"."""
    done = lazysif("doctor", "--json", tmp_path / os.fsdecode(b"m\xff"))
    assert (done.returncode, done.stderr) == (1, "")
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks[f"mount {tmp_path}/m\udcff"]["found"] == "not a directory"
    assert checks["configuration"]["verdict"] != "problem"


def test_an_image_whose_name_is_not_utf_8_can_be_asked_for(monkeypatch):
    """Regression: `warm` ended with a traceback; the daemon says that it is not there."""
    targets = []
    monkeypatch.setattr(cli_warm, "fetch_document", lambda socket, target, method: targets.append(target))
    asked = cli_warm._Asked("x", (Path("/run/x.sock"),), os.fsdecode(b"\xff.sif"))
    cli_warm._order(asked, {"what": "all"})
    assert targets == ["/warm?image=%FF.sif&what=all"]


def test_a_program_that_is_missing_is_named():
    with pytest.raises(MountError, match="no-such-umount cannot be run: No such file"):
        cli_umount._unmount(["no-such-umount", "--", "/m"])


def test_a_runtime_directory_that_leaves_no_room_for_a_socket(lazysif, tmp_path):
    """Regression: the daemon ended with a traceback in its log, and `mount` said no more than that it had."""
    directory = tmp_path / ("x" * 90)
    done = lazysif("mount", "https://h/", tmp_path, runtime_dir=directory)
    fails(done, 4, str(directory), "longer than 85 bytes", "LAZYSIF_RUNTIME_DIR")
    assert not directory.exists()


def test_a_command_imports_no_more_than_it_needs():
    """All of them together took 0.4 s, and with them every look at `status`."""
    program = (
        "import sys; from lazysif.cli.main import cli; cli.main(sys.argv[1:], standalone_mode=False);"
        "print(*{'trio', 'httpx', 'pyfuse3', 'diskcache'} & sys.modules.keys(), file=sys.stderr)"
    )
    for command in ("mount", "umount", "status", "upgrade", "warm"):
        done = subprocess.run(
            [sys.executable, "-c", program, command, "--help"], capture_output=True, text=True
        )
        assert "Usage: " in done.stdout
        assert done.stderr == "\n", command


def test_a_daemon_imports_no_command_line():
    program = "import lazysif.daemon, sys; print(*{'rich', 'pygments', 'click'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_a_keeper_loads_its_own_modules_and_the_standard_library():
    program = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except ValueError: pass  # no order\n"
        "print(*sorted(n for n in sys.modules if n.partition('.')[0] not in sys.stdlib_module_names))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(Path(keeper.__file__))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout == "__main__ lazysif lazysif.keeper_child lazysif.keeper_mount\n"
    assert done.stderr == ""


def test_help_names_every_command_and_each_is_there(lazysif):
    listed = lazysif("--help").stdout.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in listed if line.strip()]
    assert {"mount", "umount", "status", "reload", "upgrade", "warm", "trace", "fsck", "doctor"} < set(names)
    for name in names:
        assert lazysif(name, "--help").returncode == 0


def test_version_and_help(lazysif):
    assert lazysif("--version").stdout.startswith("lazysif, version ")
    done = lazysif("mount", "--help")
    assert done.returncode == 0
    assert "Exit codes" in done.stdout
