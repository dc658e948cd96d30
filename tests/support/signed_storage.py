"""Object storage behind a registry: files by URLs whose signature (in the words of AWS) ends, or is ended."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import Handler, Log, LoopbackServer

LIFETIME_S = 3600


class _Handler(Handler):
    stand: SignedStorage

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.stand.log.add(f"GET {parts.path} {self.headers.get('Range', '')}", data=True)
        if "Authorization" in self.headers:
            self.stand.foreign_credentials.append(self.headers["Authorization"])
            return self.answer(400, b"only one auth mechanism allowed")  # as S3 does
        (signature,) = parse_qs(parts.query).get("X-Amz-Signature", [""])
        file = self.stand.signed.get((parts.path, signature))
        if file is None:
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return self._bytes(file)

    def _bytes(self, file: Path) -> None:
        data = file.read_bytes()
        etag = f'"{file.stat().st_mtime_ns:x}-{len(data):x}"'
        if self.headers.get("If-Match", etag) != etag:
            return self.answer(412)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, data, ETag=etag)
        start, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start > last:
            return self.answer(416, Content_Range=f"bytes */{len(data)}")
        return self.answer(
            206, data[start : last + 1], ETag=etag, Content_Range=f"bytes {start}-{last}/{len(data)}"
        )


class SignedStorage(LoopbackServer):
    """`url_for(file)` gives a signed URL of it; `expire()` lets all given so far be refused."""

    handler = _Handler

    def __init__(self, log: Log | None = None) -> None:
        super().__init__(log)
        self.signed: dict[tuple[str, str], Path] = {}
        self.signatures: list[str] = []
        self.foreign_credentials: list[str] = []
        """Values of `Authorization` that came: those of a registry have no business here."""

    def url_for(self, file: Path) -> str:
        path, signature = f"/bucket/{file.parent.name}/{file.name}", secrets.token_hex(32)
        self.signed[path, signature] = file
        self.signatures.append(signature)
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        words = f"X-Amz-Date={began}&X-Amz-Expires={LIFETIME_S}&X-Amz-Signature={signature}"
        # Go's clients take two ports of one host for one place, and would send it the registry's credentials
        there = self.url.replace("127.0.0.1", "localhost")
        return f"{there}{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256&{words}"

    def expire(self) -> None:
        self.signed.clear()
