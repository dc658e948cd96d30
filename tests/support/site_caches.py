"""Real nginx, Squid and Varnish as caches of a site, from the configurations that are shipped."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from bench.nginx import find_nginx

SHIPPED = Path(__file__).parents[2] / "mount-helpers/site-cache"
START_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def changed(text: str, changes: dict[str, str]) -> str:
    """The shipped text as an administrator would change it. Raises: AssertionError: it does not have the words."""
    for old, new in changes.items():
        assert old in text, f"the shipped configuration does not say {old!r}"
        text = text.replace(old, new)
    return text


def program(name: str) -> str:
    """Raises: FileNotFoundError."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


class SiteCache(ABC):
    """One cache before one origin; a context manager. It keeps its port and its store over `kill` and `start`.

    Args: origin_url: plain HTTP, without a path.
    """

    forward = False
    """Whether it is a proxy for nodes; else it stands for the origin."""

    def __init__(self, origin_url: str) -> None:
        self.origin = urlsplit(origin_url).netloc
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="lazysif-site-cache-"))
        self.directory.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """Write the configuration, and say how to run it in the foreground."""

    def log(self) -> str:
        """What it says of its troubles."""
        return (self.directory / "output").read_text(errors="replace")

    def start(self) -> Self:
        """Raises: RuntimeError: it does not answer."""
        command = self.command()
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(f"{command[0]} does not answer: {self.log()[-2000:]}")
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("OPTIONS", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def kill(self) -> None:
        """At once, as when its machine dies."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _owned_by(self, user: str, *paths: Path) -> None:
        """Programs that are started by root become another user."""
        if os.geteuid() == 0:
            known = pwd.getpwnam(user)
            for path in paths:
                os.chown(path, known.pw_uid, known.pw_gid)


class NginxCache(SiteCache):
    modules: Sequence[str] = ()

    def more(self, shipped: str) -> str:
        """What else an administrator changes."""
        return shipped

    def command(self) -> list[str]:
        (self.directory / "lazysif").mkdir(exist_ok=True)
        for name in ("bytes.conf", "names.conf"):
            shutil.copyfile(SHIPPED / "nginx" / name, self.directory / "lazysif" / name)
        shipped = changed(
            (SHIPPED / "nginx/lazysif-cache.conf").read_text(),
            {
                "/var/cache/nginx/lazysif": str(self.directory / "cache"),
                "server images.example.org:443;": f"server {self.origin};",
                "https://lazysif_images": "http://lazysif_images",
                "listen 80;": f"listen 127.0.0.1:{self.port};",
                "set $lazysif_host images.example.org;": f"set $lazysif_host {self.origin};",
                "min_free=20g": "min_free=100m",
                "max_size=400g": "max_size=4g",
            },
        )
        (self.directory / "lazysif-cache.conf").write_text(self.more(shipped))
        modules = "".join(f"load_module {module};\n" for module in self.modules)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(
            f"{modules}{user} daemon off; worker_processes 2; pid nginx.pid; error_log stderr;\n"
            "events { worker_connections 1024; }\n"
            "http { client_body_temp_path tmp; proxy_temp_path tmp2; fastcgi_temp_path tmp; uwsgi_temp_path tmp;\n"
            "scgi_temp_path tmp; include lazysif-cache.conf; }\n"
        )
        return [find_nginx() or "nginx", "-p", f"{self.directory}/", "-c", "nginx.conf", "-e", "stderr"]


class SigningCache(NginxCache):
    """nginx before an S3 that wants signatures. `credentials`: access key, secret key, session token if any."""

    modules = ("/usr/lib/nginx/modules/ngx_http_js_module.so",)
    region = "us-east-1"
    credentials: Sequence[str] = ()

    def more(self, shipped: str) -> str:
        for module in self.modules:
            if not Path(module).exists():
                raise FileNotFoundError("libnginx-mod-http-js is not installed")
        own = self.directory / "lazysif"
        secrets = own / "s3-credentials"
        secrets.touch(0o600)
        secrets.write_text("\n".join(self.credentials) + "\n")
        script = (SHIPPED / "nginx/s3.js").read_text()
        (own / "s3.js").write_text(changed(script, {"/etc/nginx/lazysif/s3-credentials": str(secrets)}))
        text = (SHIPPED / "nginx/s3.conf").read_text()
        (own / "s3.conf").write_text(text)
        needed = [line[2:] for line in text.splitlines() if line.startswith("#   js_")]
        top = "\n".join(needed).replace("/etc/nginx/lazysif", str(own))
        return (
            top
            + "\n"
            + changed(
                shipped,
                {
                    "include lazysif/bytes.conf;": "include lazysif/bytes.conf; include lazysif/s3.conf;",
                    "include lazysif/names.conf;": "include lazysif/names.conf; include lazysif/s3.conf;",
                    "http://lazysif_images;": "http://lazysif_images$lazysif_s3_path;",
                    "access_log off;": f"access_log off; set $lazysif_s3_region {self.region};",
                },
            )
        )


class SquidCache(SiteCache):
    forward = True

    def command(self) -> list[str]:
        squid, spool = program("squid"), self.directory / "spool"
        spool.mkdir(exist_ok=True)
        host = self.origin.partition(":")[0]
        shipped = changed(
            (SHIPPED / "squid/lazysif.conf").read_text(),
            {
                "dstdomain images.example.org": f"dst {host}/32",
                "http_port 3128": f"http_port 127.0.0.1:{self.port}",
                "aufs /var/spool/squid 400000": f"aufs {spool} 4000",
            },
        )
        configuration = self.directory / "squid.conf"
        configuration.write_text(
            f"{shipped}\npid_filename {self.directory}/squid.pid\ncache_log {self.directory}/cache.log\n"
            f"access_log none\ncoredump_dir {self.directory}\nvisible_hostname site-cache\n"
            f"netdb_filename none\npinger_enable off\n"
        )
        self._owned_by("proxy", self.directory, spool)
        if not any(spool.iterdir()):
            made = subprocess.run(
                [squid, "-f", str(configuration), "-N", "-z"], capture_output=True, text=True, timeout=START_S
            )
            if made.returncode:
                raise RuntimeError(f"squid -z: {made.stderr[-2000:]}")
        return [squid, "-f", str(configuration), "-N"]

    def log(self) -> str:
        log = self.directory / "cache.log"
        return super().log() + (log.read_text(errors="replace") if log.exists() else "")


class VarnishCache(SiteCache):
    def command(self) -> list[str]:
        host, _, port = self.origin.partition(":")
        shipped = changed(
            (SHIPPED / "varnish/lazysif.vcl").read_text(),
            {
                '.host = "images.example.org";': f'.host = "{host}";',
                '.port = "80";': f'.port = "{port}";',
                '"images.example.org"': f'"{self.origin}"',
            },
        )
        configuration = self.directory / "lazysif.vcl"
        configuration.write_text(shipped)
        return [
            program("varnishd"), "-F", "-j", "none", "-n", str(self.directory / "work"),
            "-f", str(configuration), "-a", f"127.0.0.1:{self.port}",
            "-s", f"bytes=file,{self.directory / 'store'},4G", "-s", "Transient=malloc,256m",
            "-p", "thread_pool_min=20",
        ]  # fmt: skip
