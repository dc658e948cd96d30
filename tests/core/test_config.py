"""The configuration file: every mistake gets one line that says where, what and what to do."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from lazysif import toml_text
from lazysif.config.files import read_secret
from lazysif.config.kinds import HttpRemote
from lazysif.config.load import check_config, config_for_source, load_config, with_overrides
from lazysif.config.render import render
from lazysif.config.tables import CacheConfig, Config
from lazysif.errors import ConfigError
from lazysif.sizes import ShareOrSize

REMOTE = '[remote.shub]\nkind = "http"\nurl = "https://images.example/sif/"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lazysif.toml"


def problems(file: Path, text: str) -> list[str]:
    file.write_text(text)
    return [line.removeprefix(str(file)) for line in check_config(file)]


def test_a_remote_is_all_that_a_file_needs(file: Path) -> None:
    file.write_text(REMOTE)
    config = load_config(file)
    assert config.remotes == (HttpRemote(name="shub", kind="http", url="https://images.example/sif/"),)
    assert (config.cache, config.source_mode) == (CacheConfig(), False)


def test_every_key_is_read(file: Path, tmp_path: Path) -> None:
    secret, bundle = tmp_path / "secret", tmp_path / "ca.pem"
    secret.touch(0o600)
    bundle.touch()
    file.write_text(f"""
[cache]
dir = "/c"
size = "80%"
min_free = "1GB"
block_size = "256KiB"
memory = 1048576
[state]
dir = "/s"
[log]
level = "debug"
file = "/l"
[mount]
options = ["allow_root", "fsname=x"]
[limits]
read_timeout = 5
lookup_timeout = 2.5
connections = 3
[remote."bio.1"]
kind = "http"
url = "https://images.example/sif/?sig=1"
revalidate = 0
negative = 1
listing = "off"
whole_file = "refuse"
ca_file = "{bundle}"
username = "u"
password_file = "{secret}"
owner = "root"
group = 0
mode = "0440"
stall_timeout = 1
whole_file_timeout = 2
""")
    config = load_config(file)
    assert config.cache == CacheConfig(
        dir=Path("/c"),
        size=ShareOrSize(share=Fraction(4, 5)),
        min_free=ShareOrSize(size_bytes=10**9),
        block_size=2**18,
        memory=2**20,
    )
    assert (config.state.dir, config.log.level, config.log.file) == (Path("/s"), "debug", Path("/l"))
    assert config.mount.options == ("allow_root", "fsname=x")
    assert (config.limits.read_timeout, config.limits.lookup_timeout, config.limits.connections) == (
        5,
        2.5,
        3,
    )
    remote = config.remotes[0]
    assert (remote.name, remote.revalidate, remote.listing, remote.whole_file) == (
        "bio.1",
        0,
        "off",
        "refuse",
    )
    assert (remote.ca_file, remote.username, remote.password_file) == (bundle, "u", secret)
    assert (remote.uid, remote.gid, remote.mode, remote.directory_mode) == (0, 0, 0o440, 0o550)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[cache]\nsizee = "1"\n', ':2: cache.sizee: unknown key (did you mean "size"?)'),
        ("[lgo]\n", ':1: lgo: unknown table (did you mean "log"?)'),
        ("zzzz = 1\n", ":1: zzzz: unknown table: leave it out"),
        ("cache = 1\n", ":1: cache: this is a table: write [cache] on a line of its own"),
        ('[cache]\nsize = "lots"\n', ':2: cache.size: "lots" is not a size: '),
        ('[cache]\nsize = "0%"\n', ":2: cache.size: a cache of no bytes holds nothing"),
        ("[cache]\nsize = true\n", ":2: cache.size: True is not text: put it in quotes"),
        ("cache.size = -1\n", ':1: cache.size: "-1" is not a size'),
        (
            '[cache]\n\n# x = 1\nblock_size = "100KiB"\n',
            ":4: cache.block_size: 100 KiB is not a power of two",
        ),
        ('[cache]\ndir = "here"\n', ':2: cache.dir: "here" is not an absolute path: start it with /'),
        ('[cache]\ndir = ""\n', ":2: cache.dir: the path is empty: write one, or leave it out"),
        ('[cache]\ndir = "~nobody-of-that-name/x"\n', ":2: cache.dir: the home directory in"),
        ('[log]\nlevel = "inof"\n', ":2: log.level: 'inof' is not known (did you mean \"info\"?)"),
        ('[mount]\noptions = "allow_other"\n', ':2: mount.options: not a list: write ["allow_other"]'),
        ('[mount]\noptions = ["a,b"]\n', ':2: mount.options: "a,b" is not one mount option'),
        ("[limits]\nread_timeout = -1\n", ":2: limits.read_timeout: expected number > 0.0; found -1"),
        ("[limits]\nread_timeout = nan\n", ":2: limits.read_timeout: expected number"),
        (
            '[limits]\nconnections = "x"\n',
            ":2: limits.connections: expected whole number, got str; found 'x'",
        ),
    ],
)
def test_a_mistake_in_a_table(file: Path, text: str, line: str) -> None:
    found = problems(file, text + REMOTE)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('kind = "htpp"', ":3: remote.x.kind: 'htpp' is not known (did you mean \"http\"?)"),
        ("", ':1: remote.x.kind: missing: write kind = "..."'),
        ('url = "images.example/sif"', ":3: remote.x.url: the URL has no scheme: start it with https://"),
        ('url = "ftp://a/"', ':3: remote.x.url: a URL of scheme "ftp" cannot be read'),
        ('url = "https:///x"', ":3: remote.x.url: the URL names no host"),
        ('url = "https://a:port/"', ":3: remote.x.url: not a URL"),
        ('url = "https://a/#x"', ":3: remote.x.url: the URL has a fragment"),
        ('url = "https://a/b c"', ":3: remote.x.url: spaces, backslashes"),
        ('username = "u"', ":3: remote.x.username: a user name needs a password"),
        ('username = "u:v"', ":3: remote.x.username: a user name cannot be empty and cannot hold a colon"),
        ('ca_file = "/nope"', ":3: remote.x.ca_file: /nope cannot be used: No such file or directory"),
        ('ca_file = "/"', ":3: remote.x.ca_file: / is not a file"),
        ('token_file = "/nope"', ":3: remote.x.token_file: /nope cannot be used"),
        ('mode = "0755"', ':3: remote.x.mode: "0755" has write or special bits'),
        ("mode = 365", ":3: remote.x.mode: 365 is not text"),
        ('mode = "rx"', ':3: remote.x.mode: "rx" is not an octal mode'),
        ('owner = "no such"', ':3: remote.x.owner: this node knows no user "no such"'),
        ('group = "no such"', ':3: remote.x.group: this node knows no group "no such"'),
        ("revalidate = -1", ":3: remote.x.revalidate: expected number >= 0.0; found -1"),
    ],
)
def test_a_mistake_in_a_remote(file: Path, text: str, line: str) -> None:
    key = text.partition(" ")[0]
    whole = {"kind": 'kind = "http"', "url": 'url = "https://a/"'}
    rest = [value for name, value in whole.items() if name != key and (text or name == "url")]
    found = problems(file, "\n".join(["[remote.x]", rest[0], text, *rest[1:]]))
    assert any(entry.startswith(line) for entry in found), found


def test_a_password_in_a_url_is_refused_and_not_repeated(file: Path) -> None:
    (found,) = problems(file, '[remote.x]\nkind = "http"\nurl = "https://u:hidden@a/"\n')
    assert "put the password in password_file" in found
    assert "hidden" not in found


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "a b", "-x", "x" * 256])
def test_a_remote_is_named_like_a_directory(file: Path, name: str) -> None:
    (found,) = problems(file, f'[remote."{name}"]\nkind = "http"\nurl = "https://a/"\n')
    assert found.startswith(":1: remote.")
    assert "cannot name a directory" in found


def test_all_problems_are_told_in_the_order_of_the_file(file: Path) -> None:
    found = problems(file, '[remote.x]\nkind = "z"\n[log]\nlevel = 1\n[cache]\nsize = ""\nx = 1\n')
    assert [entry.split(":")[1] for entry in found] == ["2", "4", "6", "7"]
    with pytest.raises(ConfigError, match="and 3 more: lazysif config check"):
        load_config(file)


def test_two_remotes_of_one_name_are_told_with_the_line(file: Path) -> None:
    (found,) = problems(file, REMOTE + REMOTE)
    assert found.startswith(":4: not TOML: cannot declare")


@pytest.mark.parametrize(
    ("content", "why"), [(b"\xff", "not UTF-8"), (b"x", "not TOML"), (b"a=" + b"[" * 9999, "")]
)
def test_a_file_that_is_no_toml(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    (found,) = check_config(file)
    assert why in found


def test_a_file_that_is_not_there(file: Path) -> None:
    assert check_config(file) == [f"{file}: cannot be read: No such file or directory"]


def test_a_file_without_remotes_mounts_nothing(file: Path) -> None:
    assert problems(file, "") == [
        ": remote: no remote, so nothing could be mounted: write [remote.NAME] with kind and url"
    ]
    assert problems(file, "remote = 1")[0].startswith(":1: remote: no remote")


def test_credentials_that_contradict(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "s"
    secret.touch(0o600)
    (found,) = problems(
        file, REMOTE + f'username = "u"\ntoken_file = "{secret}"\npassword_file = "{secret}"\n'
    )
    assert found.startswith(":5: remote.shub.token_file: a token and a user name contradict")
    (found,) = problems(file, REMOTE + f'password_file = "{secret}"\n')
    assert found.startswith(":4: remote.shub.password_file: a password needs its user")
    secret.chmod(0o640)
    (found,) = problems(file, REMOTE + f'token_file = "{secret}"\n')
    assert found.endswith(f"has mode 0640, so others can get at the secret: chmod 600 {secret}")


def test_a_source_is_the_mount_itself() -> None:
    config = config_for_source("https://images.example/sif", {"listing": "off", "ca_file": None})
    assert config.source_mode
    assert (config.remotes[0].name, config.remotes[0].listing) == ("", "off")
    with pytest.raises(ConfigError, match=r"^url: the URL has no scheme"):
        config_for_source("images.example/sif")


def test_the_command_line_overlays_the_file(file: Path) -> None:
    file.write_text(REMOTE + 'listing = "off"\n[cache]\nmemory = "1MiB"\n')
    settings = {
        "cache.size": "10GiB",
        "limits.read_timeout": "5",
        "remote.shub.negative": 1,
        "log.level": None,
    }
    config = with_overrides(load_config(file), settings)
    assert (config.cache.size, config.cache.memory) == (ShareOrSize(size_bytes=10 * 2**30), 2**20)
    assert config.limits.read_timeout == 5.0
    assert (config.remotes[0].negative, config.remotes[0].listing) == (1.0, "off")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("cache.sise", "1", 'cache.sise: unknown key (did you mean "size"?)'),
        ("cahce.size", "1", 'cahce.size: no table of that name (did you mean "cache"?)'),
        ("remote.y.url", "https://b/", "remote.y.url: no table of that name"),
        ("size", "1", "size: no table of that name"),
        ("bad key", "1", '"bad key": no table of that name'),
        ("remote.shub.username", "u", "remote.shub.username: a user name needs a password"),
    ],
)
def test_an_override_that_cannot_be_meant(file: Path, key: str, value: str, line: str) -> None:
    file.write_text(REMOTE)
    with pytest.raises(ConfigError) as raised:
        with_overrides(load_config(file), {key: value})
    assert str(raised.value).startswith(line)


def test_what_is_shown_reads_back(file: Path) -> None:
    file.write_text(
        REMOTE + 'mode = "0440"\n[log]\nfile = "/var/log/a \\"b\\""\n[remote."b.c"]\nkind = "http"\n'
    )
    with open(file, "a") as more:
        more.write('url = "http://[::1]:80/"\n')
    config = load_config(file)
    file.write_text(render(config))
    assert load_config(file) == config


def test_a_signature_is_shown_nowhere() -> None:
    config = config_for_source("https://images.example/sif?sig=hidden")
    assert "hidden" not in render(config) + repr(config) + str(config)
    assert tomllib.loads(render(config))["remote"][""]["url"] == "https://images.example/sif"


def test_directories_of_people_who_are_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.setenv("XDG_STATE_HOME", "relative is ignored")
    monkeypatch.setenv("HOME", "/home/u")
    config = Config()
    assert (config.cache.dir, config.mount.options) == (Path("/x/cache/lazysif"), ())
    assert config.state.dir == Path("/home/u/.local/state/lazysif")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the node does not know, as in containers."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_a_user_without_a_home_directory(homeless: None, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: RuntimeError: Could not determine home directory."""
    with pytest.raises(ConfigError, match=r"cache\.dir has no default: .*; or set HOME or XDG_CACHE_HOME"):
        Config()
    assert len(problems(file, REMOTE)) == 1
    assert ":1: cache.dri: unknown key" in problems(file, "cache.dri = 1\n" + REMOTE)[0], (
        "what is wrong goes first"
    )
    assert problems(file, '[cache]\ndir = "/c"\n[state]\ndir = "/s"\n' + REMOTE) == []
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    with pytest.raises(ConfigError, match=r"state\.dir has no default: .*; or set HOME or XDG_STATE_HOME"):
        Config()
    file.unlink()
    assert "cannot be read" in check_config(file)[0]


@pytest.mark.parametrize("home", ["here", "/home/\udcff"])
def test_a_home_directory_that_nothing_can_lie_in(
    homeless: None, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match=r"cache\.dir has no default: "):
        Config()


def test_a_secret_is_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "s"
    secret.touch(0o600)
    secret.write_text("pässword 1\n")
    assert read_secret(secret) == "pässword 1"


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"x", 0o644, "chmod 600"),
        (b"x", 0o610, "chmod 600"),
        (b"", 0o600, "one line"),
        (b"a\nb", 0o600, "one line"),
        (b"x" * 70000, 0o600, "one line"),
        (b"hidden\xff", 0o600, "not UTF-8"),
    ],
)
def test_a_secret_that_is_refused(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    secret = tmp_path / "s"
    secret.write_bytes(content)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=why) as raised:
        read_secret(secret)
    assert "hidden" not in str(raised.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "missing")


def test_lines_of_keys() -> None:
    text = 'a.b = 1\n[t]\nx = """\n"""\n"q.r" = 2\n[[l]]\n# c = 1\n'
    assert toml_text.key_lines(text) == {("a", "b"): 1, ("t",): 2, ("t", "x"): 3, ("t", "q.r"): 5, ("l",): 6}
    assert toml_text.rendered(True) == "true"
    assert toml_text.rendered(("a", 'b"')) == '["a", "b\\""]'
    assert toml_text.quoted("\x01é") == '"\\U00000001é"'
