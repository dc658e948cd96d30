"""Google Cloud Storage in little, as its JSON API answers: generations, conditions, ranges, listings, tokens.

google-cloud-storage works against it (`tests/registries/test_gcs.py`). Tokens are given for a JWT that the service
account has signed (RFC 7523), as Google's own server does it. The emulators of the package index check no
credentials, and name no generation in the answers with an object's bytes.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from tests.support.loopback import Handler, Log, LoopbackServer

BUCKET = "images"
ACCOUNT = "reader@project.iam.gserviceaccount.com"
_AUDIENCE = "https://oauth2.googleapis.com/token"
"""What google-auth writes, whatever token_uri it sends it to."""
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Stored:
    """An object's generations, the last one being live unless it was deleted."""

    generations: dict[int, bytes] = field(default_factory=dict)
    live: int = 0
    metageneration: int = 1


class GcsHandler(Handler):
    stand: GcsServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        is_data = query.get("alt") == "media"
        self.stand.log.add(f"GET {parts.path}?{parts.query} {self.headers.get('Range', '-')}", data=is_data)
        if parts.path == "/" or parts.path.startswith("/computeMetadata/"):
            self._metadata(parts.path)
            return
        if not self._may_read():
            return
        names = [unquote(part) for part in parts.path.removeprefix("/download").split("/")]
        if names[:5] != ["", "storage", "v1", "b", BUCKET]:
            self._refuse(404, "The specified bucket does not exist.")
        elif len(names) == 6:
            self._list(query)
        elif len(names) == 7 and names[5] == "o":
            self._object(names[6], query, is_data)

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        body = self.body()
        if parts.path.startswith("/computeMetadata/"):
            self._metadata(parts.path)
        elif parts.path == "/token":
            self._token({name: values[0] for name, values in parse_qs(body.decode()).items()})

    def _may_read(self) -> bool:
        stand, given = self.stand, self.headers.get("Authorization", "")
        if stand.public or given.removeprefix("Bearer ") in stand.tokens:
            return True
        if given:
            self._refuse(401, "Invalid Credentials")
        else:
            self._refuse(401, "Anonymous caller does not have storage.objects.get access to the object.")
        return False

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.answer(status, body, Content_Type="application/json; charset=UTF-8")

    def _json(self, said: object) -> None:
        self.answer(200, json.dumps(said).encode(), Content_Type="application/json; charset=UTF-8")

    def _object(self, name: str, query: dict[str, str], is_data: bool) -> None:
        stored = self.stand.objects.get(name)
        generation = int(query.get("generation") or (stored.live if stored else 0))
        if stored is None or generation not in stored.generations:
            self._refuse(404, f"No such object: {BUCKET}/{name}")
            return
        data = stored.generations[generation]
        # made of both, as Google's are
        numbers = f"{generation}/{stored.metageneration}".encode()
        etag = f'"{base64.b64encode(numbers).decode()}"'
        if not is_data:
            self._json(self.stand.resource(name, generation, etag.strip('"')))
            return
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, ETag=etag)
            return
        if self.headers.get("If-Match", etag) != etag:
            self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
            return
        headers = {
            "ETag": etag,
            "X_Goog_Generation": str(generation),
            "X_Goog_Metageneration": str(stored.metageneration),
            "X_Goog_Stored_Content_Length": str(len(data)),
            "Content_Type": "application/octet-stream",
        }
        asked = self.headers.get("Range")
        if asked is None:
            self.answer(200, data, **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)) + 1, len(data))
        if start >= len(data):
            self.answer(416, Content_Range=f"bytes */{len(data)}")
            return
        headers["Content_Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.answer(206, data[start:stop], **headers)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found: dict[str, bool] = {}
        for name in sorted(name for name in self.stand.objects if name.startswith(prefix)):
            below, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            found[prefix + below + cut if cut else name] = bool(cut)
        names = sorted(name for name in found if name > query.get("pageToken", ""))
        page = names[: int(query.get("maxResults", "1000"))]
        said: dict[str, Any] = {"kind": "storage#objects"}
        said["items"] = [self.stand.resource(name, 0, "x") for name in page if not found[name]]
        said["prefixes"] = [name for name in page if found[name]]
        if len(page) < len(names):
            said["nextPageToken"] = page[-1]
        self._json({key: value for key, value in said.items() if value})

    def _token(self, form: dict[str, str]) -> None:
        self.stand.log.add("POST /token")
        try:
            claims = jwt.decode(form["assertion"], certs=self.stand.certificate, audience=_AUDIENCE)
            good = (
                form["grant_type"] == _GRANT and claims["iss"] == ACCOUNT and "devstorage" in claims["scope"]
            )
        except (ValueError, KeyError):
            good = False
        if not good:
            refused = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            self.answer(400, json.dumps(refused).encode(), Content_Type="application/json")
            return
        self._json({"access_token": self.stand.new_token(), "expires_in": 3600, "token_type": "Bearer"})

    def _metadata(self, path: str) -> None:
        """What a virtual machine's metadata server says; google-auth looks for it at GCE_METADATA_HOST."""
        if self.headers.get("Metadata-Flavor") != "Google":
            self.answer(403)
        elif path.endswith("/token"):
            said = {"access_token": self.stand.new_token(), "expires_in": 3600, "token_type": "Bearer"}
            self.answer(
                200, json.dumps(said).encode(), Content_Type="application/json", Metadata_Flavor="Google"
            )
        elif path.endswith(("/default/", "/default", f"/{ACCOUNT}/")):
            said = {"email": ACCOUNT, "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"]}
            self.answer(
                200, json.dumps(said).encode(), Content_Type="application/json", Metadata_Flavor="Google"
            )
        else:
            self.answer(200, b"", Content_Type="text/plain", Metadata_Flavor="Google")


class GcsServer(LoopbackServer):
    """Runs while it is entered. `public`: read by anybody."""

    handler = GcsHandler

    def __init__(self, log: Log | None = None) -> None:
        super().__init__(log)
        self.objects: dict[str, Stored] = {}
        self.tokens: set[str] = set()
        self.given: list[str] = []
        self.public = False
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def token_uri(self) -> str:
        return f"{self.url}/token"

    def new_token(self) -> str:
        token = f"ya29.{secrets.token_urlsafe(30)}"
        self.tokens.add(token)
        self.given.append(token)
        return token

    def put(self, name: str, data: bytes, *, keep_old: bool = False) -> None:
        stored = self.objects.setdefault(name, Stored())
        generation = max(int(time.time() * 1e6), stored.live + 1)
        stored.generations = {**(stored.generations if keep_old else {}), generation: data}
        stored.live = generation

    def resource(self, name: str, generation: int, etag: str) -> dict[str, str]:
        """An object's metadata."""
        stored = self.objects[name]
        generation = generation or stored.live
        media = f"{self.url}/download/storage/v1/b/{BUCKET}/o/{name.replace('/', '%2F')}?alt=media"
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "generation": str(generation),
            "metageneration": str(stored.metageneration),
            "size": str(len(stored.generations[generation])),
            "etag": etag,
            "mediaLink": f"{media}&generation={generation}",
        }

    def service_account(self, file: Path, *, other_key: bool = False) -> Path:
        """A key file of the account; with `other_key` one that the token server does not know."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if other_key else self._key
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        said = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": self.token_uri,
        }
        file.touch(0o600)
        file.write_text(json.dumps(said))
        assert crypt.RSASigner.from_service_account_info(said).key_id == "1"
        return file
