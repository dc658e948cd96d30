"""Which certificate authorities are trusted: the system's, and a site's own beside them; for OpenSSL and libcurl."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """PEM files by which a server knows this node."""

    certificate: str
    key: str


def tls_context(ca_file: str | None, client: ClientCertificate | None = None) -> ssl.SSLContext:
    """The system's authorities (SSL_CERT_FILE counts), and a site's own beside them.

    Raises:
        OSError: `ca_file` or the client's files cannot be read, or hold no certificate (ssl.SSLError).
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    if client is not None:
        # a passphrase would be asked for at a terminal that is not there
        context.load_cert_chain(client.certificate, client.key, password="")
    return context


@dataclass(frozen=True, slots=True)
class Authorities:
    """The same for libcurl, whose own places (CURLOPT_CAINFO as built) need not exist on this system.

    Args:
        file: PEM file, "" for none.
        merged: PEM of several files, instead of `file`.
        directory: with OpenSSL's hashed names, "" for none.
    """

    file: str = ""
    merged: bytes = b""
    directory: str = ""

    @classmethod
    def of(cls, ca_file: str | None) -> Authorities:
        """Raises: OSError as `tls_context`."""
        if ca_file is not None:
            tls_context(ca_file)
        system = ssl.get_default_verify_paths()
        directory = system.capath if system.capath and _is_hashed(Path(system.capath)) else ""
        files = [Path(system.cafile)] if system.cafile else []
        if directory:
            # what update-ca-certificates writes is all in the directory, which is read by need and not whole
            files = [path for path in files if path.resolve().parent != Path(directory).resolve()]
        if ca_file is not None:
            files.append(Path(ca_file))
        if len(files) > 1:
            return cls(merged=b"\n".join(path.read_bytes() for path in files), directory=directory)
        return cls(file=str(files[0]) if files else "", directory=directory)


def _is_hashed(directory: Path) -> bool:
    """Whether OpenSSL finds anything there: some systems name a directory without its hashed links."""
    try:
        return any(_HASHED.fullmatch(entry.name) for entry in directory.iterdir())
    except OSError:
        return False
