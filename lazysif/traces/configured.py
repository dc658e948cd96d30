"""The shares that `[traces]` names."""

from __future__ import annotations

from lazysif.config.files import read_secret
from lazysif.config.tables import TracesConfig
from lazysif.traces.sharing import FolderShare, Share, UrlShare
from lazysif.transport.credentials import OriginKeyring, make_auth
from lazysif.transport.httpx_transport import HttpxTransport

_CONNECTIONS = 4


def shares_of(config: TracesConfig) -> list[Share]:
    """Raises: ConfigError: a secret's file cannot be used (any more)."""
    shares: list[Share] = []
    if config.dir is not None:
        shares.append(FolderShare(config.dir))
    if config.url:
        auth = make_auth(
            username=config.username,
            password=read_secret(config.password_file) if config.password_file else "",
            token=read_secret(config.token_file) if config.token_file else None,
        )
        transport = HttpxTransport(
            config.url,
            keyring=OriginKeyring(config.url, auth),
            ca_file=str(config.ca_file) if config.ca_file else None,
            connections=_CONNECTIONS,
        )
        shares.append(UrlShare(config.url, transport, transport if config.put else None))
    return shares
