"""An origin: its clock, the connection to it, and what it says of an image."""

from __future__ import annotations

from lazysif.core.diagnosis.finding import Finding, format_span, note, ok, problem

SKEW_NOTED_S, SKEW_BAD_S = 60.0, 900.0
"""Certificates and signed URLs are issued with a quarter of an hour of tolerance (AWS: 15 minutes), not more."""


def clock(skew_s: float, host: str) -> Finding:
    """Args: skew_s: the origin's clock minus ours."""
    found = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} {host}"
    advice = "set the clock: systemctl restart chronyd (or systemd-timesyncd), then chronyc tracking"
    if abs(skew_s) > SKEW_BAD_S:
        return problem("clock", f"{found}: certificates and signed URLs may be refused", advice)
    if abs(skew_s) > SKEW_NOTED_S:
        return note("clock", found, advice)
    return ok("clock", f"agrees with {host}")


def connection(check: str, dns_s: float, tcp_s: float, tls_s: float | None) -> Finding:
    times = f"DNS {format_span(dns_s)}, TCP {format_span(tcp_s)}"
    if tls_s is not None:
        times += f", TLS {format_span(tls_s)}"
    slow = max(dns_s, tcp_s, tls_s or 0.0) > 1.0
    return note(check, times, "slow: see the resolver and the path to it") if slow else ok(check, times)


def image_answer(check: str, name: str, seconds: float, *, ranges: bool, validator: str) -> Finding:
    """What a ranged GET of an image showed. Args: validator: its kind, "none" if the answer had none."""
    found = f"first bytes of {name} in {format_span(seconds)}"
    if validator == "none":
        return note(
            check,
            f"{found}; no strong ETag and no Last-Modified: each image is downloaded whole",
            "have the server send one of them",
        )
    if not ranges:
        return note(
            check,
            f"{found}; it answers no ranges: each image is downloaded whole",
            "switch range requests on at the server",
        )
    return ok(check, f"{found}; ranges work, versions are told by {validator}")
