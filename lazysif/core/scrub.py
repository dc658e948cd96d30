"""Takes secrets out of text that leaves the node. Pure.

Two ways at once: what is known to be secret is taken out literally, in every form it is written in; what looks
like a secret is taken out by its look. The second errs on the safe side and may take an odd name with it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

GONE = "[removed]"
_SHORTEST_KNOWN = 4
"""A shorter one would take half of the text with it, and can be guessed anyway."""
_WORDS = "password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|signature"
# names of files that hold a secret are none: token_file
_NAMES = rf"(?![\w-]*_file\b)(?:[\w-]*(?:{_WORDS})[\w-]*|sig|auth|pwd)"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        GONE,
    ),
    # any Authorization value, to the end of its line or of its quoted text
    (re.compile(r"(?i)\b((?:proxy-)?authorization\b[\"']?\s*[:=,]\s*[b]?[\"']?)[^\"'\r\n]+"), rf"\1{GONE}"),
    (
        re.compile(
            r"(?i)\b(bearer|basic|negotiate|digest)(\s+)(?=\S*[\d=._-]|\S{16,})[A-Za-z0-9+/=._~-]{8,}"
        ),
        rf"\1\2{GONE}",
    ),
    (re.compile(r"(?i)\b((?:set-)?cookie[\"']?\s*[:=,]\s*[\"']?)[^\"'\r\n]+"), rf"\1{GONE}"),
    # userinfo, and queries of URLs
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@\"'<>]+@"), rf"\1{GONE}@"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?\"'<>]*)\?(?!\[removed)[^\s\"'<>)\]]+"), rf"\1?{GONE}"),
    # a request's target without scheme and host
    (re.compile(r"(/[^\s?\"'<>]*)\?[^\s\"'<>)\]]*=[^\s\"'<>)\]]+"), rf"\1?{GONE}"),
    (re.compile(rf"(?i)\b({_NAMES}[\"']?\s*[:=]\s*)([\"']?)(?!\[removed\])[^\s\"',;&]+"), rf"\1\2{GONE}"),
    # tokens that say what they are: GitHub, GitLab, Slack, AWS, JSON Web Tokens
    (
        re.compile(r"\b(?:gh[a-z]_|github_pat_|glpat-|xox[a-z]-|sk-)[\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
        GONE,
    ),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*)*"), GONE),
    # long hexadecimal numbers are digests as often: their beginnings still tell two apart
    (re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b", re.IGNORECASE), r"\1…"),
    # letters of both cases and digits, long, without a dot or slash: no word and no name of an image
    (
        re.compile(r"(?<![\w+/=-])(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])(?=[\w+=-]*\d)[\w+=-]{24,}(?![\w+/=-])"),
        GONE,
    ),
)


def scrub(text: str, known: Iterable[str] = ()) -> str:
    """Args: known: secrets, as their files or variables hold them."""
    for secret in sorted(known, key=len, reverse=True):
        for form in _forms(secret):
            text = text.replace(form, GONE)
    for pattern, by in _RULES:
        text = pattern.sub(by, text)
    return text


def _forms(secret: str) -> list[str]:
    if len(secret) < _SHORTEST_KNOWN:
        return []
    coded = base64.b64encode(secret.encode(errors="surrogateescape")).decode().rstrip("=")
    return list(dict.fromkeys((secret, quote(secret, safe="", errors="surrogateescape"), coded)))
