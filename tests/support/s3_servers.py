"""Two S3 servers that check signatures, each with a code of its own: moto (which uses botocore's), and Swift's S3.

boto3 puts the images there, so each has been shown to work with a real client before it is believed.
"""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.support.loopback import Log

BUCKET = "images"
REGION = "eu-west-1"
_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def client(service: str, url: str, access_key: str, secret: str, region: str = REGION) -> Any:
    """boto3, the reference client, without what the caller's environment says."""
    session = boto3.session.Session(access_key, secret, region_name=region)
    settings = Config(
        s3={"addressing_style": "path"},
        signature_version="s3v4" if service == "s3" else "v4",
        request_checksum_calculation="when_required",
        retries={"total_max_attempts": 1},
    )
    return session.client(service, endpoint_url=url, config=settings)


def write_credentials(file: Path, access_key: str, secret: str, token: str = "") -> None:
    """An AWS credentials file, in place of what was there."""
    part = file.with_name(file.name + ".part")
    part.touch(0o600)
    lines = ["[default]", f"aws_access_key_id = {access_key}", f"aws_secret_access_key = {secret}"]
    lines += [f"aws_session_token = {token}"] if token else []
    part.write_text("\n".join(lines) + "\n")
    part.replace(file)


class MotoServer:
    """moto with its authentication on. Runs while it is entered; `user` may do all, others nothing.

    `gate` may answer a request instead of it: it gets the WSGI environment and gives (status, headers, body) or None.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.gate: Callable[[dict[str, Any]], tuple[str, list[tuple[str, str]], bytes] | None] | None = None
        self._keys: list[tuple[str, str]] = []

    @property
    def user(self) -> tuple[str, str]:
        """Access key and secret."""
        return self._keys[-1]

    def __enter__(self) -> Self:
        # here and not above: it takes a second, and imports all of a web framework
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._logged(application), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._post("reset", b"")
        # before its authentication is on anybody may make users
        self._iam = client("iam", self.url, "first", "first")
        self._iam.create_user(UserName="user")
        self._iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(_POLICY))
        self.new_key()
        self.authenticate(True)
        self.s3 = client("s3", self.url, *self.user)
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.authenticate(False)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def new_key(self) -> None:
        """Another access key for the user; the one before is refused from now on."""
        given = self._iam.create_access_key(UserName="user")["AccessKey"]
        self._keys.append((given["AccessKeyId"], given["SecretAccessKey"]))

    def revoke(self) -> None:
        """End the present key, and give the user another."""
        self.authenticate(False)
        self._iam.delete_access_key(UserName="user", AccessKeyId=self.user[0])
        self.new_key()
        self.authenticate(True)
        self.s3 = client("s3", self.url, *self.user)

    def authenticate(self, on: bool) -> None:
        """While it is on, moto fails on requests without a signature; off, it looks at the ACL of objects alone."""
        self._post("reset-auth", b"0" if on else b"1000000")

    def _post(self, what: str, body: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/{what}", data=body, headers=plain)
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def _logged(self, application: Application) -> Application:
        def call(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
            is_data = environ["REQUEST_METHOD"] == "GET" and "HTTP_RANGE" in environ
            answer = self.gate(environ) if self.gate is not None else None
            if "moto-api" not in path:
                shown = f"{environ['REQUEST_METHOD']} {path}?{query} {environ.get('HTTP_RANGE', '-')}"
                self.log.add(shown, data=is_data)
            if answer is not None:
                status, headers, body = answer
                start_response(status, [*headers, ("Content-Length", str(len(body)))])
                return [body]
            return application(environ, start_response)

        return call
