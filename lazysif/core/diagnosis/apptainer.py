"""Apptainer: how it starts containers here, and what its configuration keeps from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lazysif.core.diagnosis.finding import Finding, note, ok, problem


@dataclass(frozen=True, slots=True)
class ApptainerFacts:
    version: str
    setuid: bool
    user_namespaces: bool
    squashfuse: str
    conf: str
    """The text of apptainer.conf, "" where it cannot be read."""


def conf_values(text: str, key: str) -> list[str]:
    """Values of `key = a, b` lines of apptainer.conf that mean something."""
    found: list[str] = []
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and name.strip() == key:
            found += [part.strip() for part in value.split(",")]
    return [value for value in found if value and value.upper() != "NULL"]


def installation(facts: ApptainerFacts | None, mountpoints: Sequence[str]) -> list[Finding]:
    """Args: facts: None where neither Apptainer nor Singularity was found. mountpoints: to be reached by it."""
    if facts is None:
        return [note("Apptainer", "neither apptainer nor singularity found", "install it where jobs run")]
    way = "setuid" if facts.setuid else "user namespaces"
    findings = [ok("Apptainer", f"{facts.version}, starts by {way}")]
    if not facts.setuid and not facts.user_namespaces:
        findings = [
            problem(
                "Apptainer",
                f"{facts.version} is not setuid, and user namespaces are off",
                "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1, or apptainer-suid",
            )
        ]
    if facts.squashfuse:
        findings.append(ok("squashfuse_ll", facts.squashfuse))
    else:
        findings.append(
            note(
                "squashfuse_ll",
                "not found: ordinary users' starts may unpack (and so fetch) whole images",
                "install the package squashfuse",
            )
        )
    return findings + _conf(facts, mountpoints)


def _conf(facts: ApptainerFacts, mountpoints: Sequence[str]) -> list[Finding]:
    check = "apptainer.conf"
    findings = []
    paths = conf_values(facts.conf, "limit container paths")
    outside = [m for m in mountpoints if paths and not any(_below(m, path) for path in paths)]
    if outside:
        findings.append(
            problem(
                check,
                f"limit container paths does not contain {', '.join(outside)}",
                f"add it: limit container paths = {', '.join([*paths, *outside])}",
            )
        )
    findings += [
        note(
            check, f"{key} = {', '.join(names)}", f"set {key.split()[-1][:-1]} of each remote to one of them"
        )
        for key in ("limit container owners", "limit container groups")
        if (names := conf_values(facts.conf, key))
    ]
    loops = conf_values(facts.conf, "max loop devices")
    if loops and loops[-1].isdigit() and int(loops[-1]) < 64:
        findings.append(note(check, f"max loop devices = {loops[-1]}", "256 is the default"))
    ways = conf_values(facts.conf, "allow setuid-mount squashfs")
    if ways == ["no"] and facts.setuid and not facts.squashfuse:
        findings.append(
            problem(
                check, "allow setuid-mount squashfs = no, and there is no squashfuse_ll", "install squashfuse"
            )
        )
    shown = (
        f"max loop devices {loops[-1] if loops else 256}, setuid squashfs {ways[-1] if ways else 'iflimited'}"
    )
    return findings or [ok(check, shown if facts.conf else "not readable")]


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
