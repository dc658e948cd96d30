"""From what people call an image (a name below the mountpoint, or a URI) to the remote that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lazysif.config.kinds import KINDS
from lazysif.config.remote import RemoteConfig
from lazysif.config.tables import Config
from lazysif.errors import ConfigError
from lazysif.image_uri import ImageUri, is_uri, parse_uri

Target = tuple[str, str]
"""A remote's name and a path below it."""


class ImageNames:
    """The names of one configuration.

    A URI belongs to the first remote that serves it, with that one's credentials. Chosen images ([images]) that no
    remote serves get one of their own, without credentials and unseen: its name begins with "@".

    Raises:
        ConfigError: a chosen image whose URI no kind can serve.
    """

    def __init__(self, config: Config) -> None:
        self._visible = config.remotes
        self.hidden: list[RemoteConfig] = []
        self.fixed: dict[str, Target] = {
            name: self._chosen(name, parse_uri(text)) for name, text in config.images.items()
        }

    def _chosen(self, name: str, uri: ImageUri) -> Target:
        served = _serving([*self._visible, *self.hidden], uri)
        if served is not None:
            return served
        for kind in KINDS.values():
            remote = kind.for_uri(uri, f"@{uri.scheme}{len(self.hidden) or ''}")
            path = remote.path_of(uri) if remote is not None else None
            if remote is not None and path is not None:
                self.hidden.append(remote)
                return remote.name, path
        raise ConfigError(
            f"images.{name}: {uri.shown} cannot be served",
            hint=f"configure a remote of the kind that serves {uri.scheme}://",
        )

    def target(self, text: str) -> Target:
        """What a command's IMAGE stands for: a URI, or a path below the mountpoint.

        Raises:
            ConfigError: no remote serves it.
        """
        if is_uri(text):
            return self._target_of_uri(text)
        path = text.strip("/")
        if path in self.fixed:
            return self.fixed[path]
        names: Mapping[str, RemoteConfig] = {remote.name: remote for remote in self._visible}
        if "" in names:
            return "", path
        remote, _, below = path.partition("/")
        if remote not in names or not below:
            raise ConfigError(f"{text}: no remote is called {remote!r}", hint=f"there are {', '.join(names)}")
        return remote, below

    def shown_path(self, text: str) -> str:
        """The path below the mountpoint of what `target` finds. Raises: ConfigError."""
        remote, path = self.target(text)
        if remote.startswith("@"):
            return next(name for name, target in self.fixed.items() if target == (remote, path))
        return f"{remote}/{path}" if remote else path

    def _target_of_uri(self, text: str) -> Target:
        try:
            uri = parse_uri(text)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        served = _serving([*self._visible, *self.hidden], uri)
        if served is None:
            raise ConfigError(
                f"{uri.shown}: no remote of this mount serves it",
                hint="configure one, or name it in [images]",
            )
        return served


def _serving(remotes: Iterable[RemoteConfig], uri: ImageUri) -> Target | None:
    for remote in remotes:
        path = remote.path_of(uri)
        if path is not None and remote.prefix:
            path = path.removeprefix(f"{remote.prefix}/") if path.startswith(f"{remote.prefix}/") else None
        if path is not None:
            return remote.name, path
    return None
