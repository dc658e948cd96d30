"""What must not leave the node, in every dress it wears; and what must stay readable."""

import pytest

from lazysif.core.scrub import GONE, scrub

SECRETS = [
    "Authorization: Bearer {0}",
    "authorization: Basic {0}",
    "{{'Authorization': 'Bearer {0}', 'Accept': 'x'}}",
    "[('authorization', 'Token {0}')]",
    "Proxy-Authorization: Basic {0}=",
    "GET https://h/x.sif?X-Amz-Signature={0}&X-Amz-Date=1 failed",
    "https://user:{0}@h/path and more",
    "proxy http://{0}@proxy:3128",
    '"GET /dir/x.sif?sig={0} HTTP/1.1" 200',
    "password={0}",
    'token = "{0}"',
    '{{"access_token": "{0}"}}',
    "AWS_SECRET_ACCESS_KEY={0}",
    "Set-Cookie: {0}; Path=/",
    "Cookie: session={0}",
    "sent Bearer {0} to h",
    "ghp_{0}",
    "glpat-{0}",
    "eyJhbGciOiJIUzI1NiJ9.{0}.x-y_z",
    "-----BEGIN RSA PRIVATE KEY-----\n{0}\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("dress", SECRETS)
@pytest.mark.parametrize("secret", ["s3cr3tValue0123", "deadbeefdeadbeefdeadbeefdeadbeef"])
def test_secrets_go_by_their_look(dress, secret):
    text = scrub("before\n" + dress.format(secret) + "\nafter")
    assert secret not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter")


def test_naked_tokens_go():
    assert scrub("took Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZg== for it") == f"took {GONE} for it"


@pytest.mark.parametrize("secret", ["hunter2", "a b&c/d", "päss"])
def test_known_secrets_go_however_they_are_written(secret):
    from base64 import b64encode
    from urllib.parse import quote

    for form in (secret, quote(secret, safe=""), b64encode(secret.encode()).decode()):
        assert scrub(f"x {form} y", [secret]).startswith(f"x {GONE}")


def test_a_secret_that_is_no_text_is_taken_too():
    assert scrub("x caf\udce9 caf%E9 y", ["caf\udce9"]) == f"x {GONE} {GONE} y"


def test_a_known_secret_of_nothing_takes_nothing():
    assert scrub("all of it", ["", "a"]) == "all of it"


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-02 03:04:05,678 WARNING lazysif.fetch.fetcher: bio/python-3.11.sif: the origin answered 503 "
        "(origin https://images.example.org/bio/python-3.11.sif)",
        'token_file = "/etc/lazysif/bio.token"',
        "21 42 0:39 / /lazysif ro,nosuid,nodev - fuse.lazysif https://h/x ro,user_id=0,group_id=0",
        "the basic idea; the bearer of bad news; digest of it",
        "daemon 4711 (exit code -9): it said nothing for 10 s",
        "what? nothing (a/b) = c",
    ],
)
def test_ordinary_lines_stay(line):
    assert scrub(line) == line


def test_digests_keep_their_beginning():
    assert scrub("block 0123456789abcdef0123456789abcdef bad") == "block 01234567… bad"


def test_twice_is_once():
    once = scrub("\n".join(dress.format("s3cr3tValue0123") for dress in SECRETS))
    assert scrub(once) == once
