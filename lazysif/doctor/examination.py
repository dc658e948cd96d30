"""The whole examination of a node: every look, all at once, within a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from lazysif import __version__
from lazysif.config.load import check_config, config_for_source, load_config, with_overrides
from lazysif.config.tables import Config
from lazysif.core.diagnosis.finding import Finding, note, ok, problem, problem_count
from lazysif.core.scrub import scrub
from lazysif.doctor import apart, directories, mounts, node
from lazysif.doctor.apart import Look, Seen
from lazysif.doctor.asked import Asked
from lazysif.doctor.paths import OnOwnMount, lead
from lazysif.image_names import ImageNames
from lazysif.image_uri import is_uri

PREPARE_S = 2.0
LOOKS_S = 11.0
"""With `PREPARE_S` and the start of Python below the 15 s within which the command ends."""
USUAL_CONFIG = Path("/etc/lazysif/config.toml")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The configuration in force, None where it is wrong or cannot be read, as `findings` then say."""

    config: Config | None
    mountpoint: str | None
    findings: tuple[Finding, ...]


def prepare(asked: Asked) -> Prepared:
    """Read the configuration, and find out which mountpoint is meant.

    Raises:
        ConfigError: the source or a setting cannot be meant.
    """
    file = asked.config_file
    if file is None and asked.source is None:
        file = USUAL_CONFIG
    seen = apart.look(
        {"configuration": partial(_read, file), "mountpoint": partial(_real, asked.mountpoint)}, PREPARE_S
    )
    findings: list[Finding] = []
    told = {"there": False}
    for item in seen["configuration"].items:
        assert isinstance(item, dict)
        if "problem" in item:
            advice = "lazysif config check FILE says all that is wrong"
            findings.append(problem("configuration", item["problem"], advice))
        told |= item
    for name, given in (("configuration", file), ("mountpoint", asked.mountpoint)):
        if seen[name].error:
            findings.append(problem(name, f"{given}: {seen[name].error}", "see that file system"))
    config: Config | None = None
    if not any(finding.check == "configuration" for finding in findings):
        config = Config()
        if asked.source is not None:
            config = config_for_source(asked.source)
        elif file is not None and told["there"]:
            config = load_config(file)
            findings.append(ok("configuration", str(file)))
        config = with_overrides(config, asked.settings)
        if not config.remotes:
            findings.append(
                note("configuration", "none given, so no origin is asked", "give --config FILE or SOURCE")
            )
    mountpoint = next((str(path) for path in seen["mountpoint"].items), asked.mountpoint)
    return Prepared(config, mountpoint, tuple(findings))


def _read(file: Path | None) -> Iterator[dict[str, object]]:
    """Whether the configuration is there, and what is wrong with it."""
    if file is None:
        return
    try:
        lead(file)
        there = os.path.lexists(file) or file != USUAL_CONFIG
        yield {"there": there}
        for line in check_config(file) if there else ():
            yield {"problem": line}
    except OnOwnMount:
        yield {"problem": f"{file}: lies on a mount of lazysif"}


def _real(mountpoint: str | None) -> Iterator[str]:
    """The mountpoint without links on the way to it."""
    if mountpoint is None:
        return
    path = Path(os.path.abspath(mountpoint))
    try:
        yield os.path.join(lead(path.parent), path.name)
    except OnOwnMount:
        yield str(path)


def looks(prepared: Prepared, image: str | None) -> dict[str, Look]:
    """What is to be looked at, by the name of its line where it does not come back."""
    config = prepared.config or Config()
    if image is not None and is_uri(image):
        image = "/".join(part for part in ImageNames(config).target(image) if part)
    mounted = [m for m in mounts.own_mounts() if prepared.mountpoint in (None, m.path)]
    paths = [m.path for m in mounted]
    found: dict[str, Look] = {
        "kernel": partial(node.kernel, config),
        "/dev/fuse": partial(node.fuse, config),
        "surroundings": partial(node.surroundings, config),
        "runtime directory": directories.runtime,
    }
    if prepared.config is not None:
        found["cache directory"] = partial(directories.cache, config.cache)
        found["state directory"] = partial(directories.state, config.state.dir)
    for remote in config.remotes:
        # half a second that a look without origins does not pay
        from lazysif.doctor import origins, ways
        from lazysif.remotes.ways import has_ways

        name, _, below = (image or "").partition("/") if remote.name else (remote.name, "", image or "")
        path = below if image and name == remote.name else None
        found[f"origin {remote.name or remote.shown_url}"] = partial(origins.origin, remote, path or None)
        if has_ways(remote):
            found[f"ways {remote.name or remote.shown_url}"] = partial(ways.ways, remote, path or None)
    wanted = [prepared.mountpoint] if prepared.mountpoint else []
    found["Apptainer"] = partial(node.apptainer, wanted or paths)
    for one in mounted:
        found[f"mount {one.path}"] = partial(mounts.mount, one)
    for path in wanted:
        if path not in paths:
            found[f"mount {path}"] = partial(mounts.not_mounted, path)
    found["units"] = node.units
    return found


def findings(seen: Mapping[str, Seen]) -> Iterator[Finding]:
    """What the looks found, and a problem for each that did not come to its end."""
    for name, one in seen.items():
        for item in one.items:
            finding = msgspec.convert(item, Finding)
            yield Finding(scrub(finding.check), finding.verdict, scrub(finding.found), scrub(finding.advice))
        if one.error:
            yield problem(name, scrub(one.error), "what it looks at hangs or is broken")


def examine(asked: Asked) -> list[Finding]:
    """All of it, in less than 15 s. Raises: ConfigError."""
    prepared = prepare(asked)
    seen = apart.look(looks(prepared, asked.image), LOOKS_S)
    return [*prepared.findings, *findings(seen)]


def document(found: list[Finding]) -> dict[str, object]:
    """For `--json` and bug reports."""
    return {
        "version": __version__,
        "problems": problem_count(found),
        "checks": [msgspec.to_builtins(finding) for finding in found],
    }
