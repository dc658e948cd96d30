"""core.sigv4 against Amazon's published examples and against botocore, which AWS itself keeps."""

import datetime
from urllib.parse import quote, urlencode

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.sigv4 import SigningKey, signature_headers

# "Signature Calculations for the Authorization Header", Amazon S3 API reference
EXAMPLE = SigningKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MAY_24_2013 = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("target", "signature"),
    [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_amazons_examples(target, signature):
    headers = signature_headers(
        "examplebucket.s3.amazonaws.com", target, {}, EXAMPLE, "us-east-1", MAY_24_2013
    )
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
    )


@given(
    path=st.lists(NAMES, min_size=1, max_size=4),
    query=st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=10), max_size=3),
    token=st.sampled_from(["", "session/token=="]),
    payer=st.booleans(),
    port=st.sampled_from(["", ":9000"]),
)
def test_botocore_signs_alike(path, query, token, payer, port):
    host = f"store.example{port}"
    target = "/" + quote("/".join(path), safe="/-._~")
    if query:
        target += "?" + urlencode(query, quote_via=quote, safe="-._~")
    headers = {"x-amz-request-payer": "requester"} if payer else {}
    key = SigningKey("AKID", "secret", token)
    ours = signature_headers(
        host, target, {"Range": "bytes=0-9", **headers}, key, "eu-west-1", datetime.datetime.now().timestamp()
    )

    theirs = AWSRequest("GET", f"http://{host}{target}", headers=headers)
    signer = botocore.auth.S3SigV4Auth(Credentials("AKID", "secret", token or None), "s3", "eu-west-1")
    # the moment is part of the signature
    theirs.context["timestamp"] = ours["x-amz-date"]
    signer._modify_request_before_signing(theirs)
    canonical = signer.canonical_request(theirs)
    signature = signer.signature(signer.string_to_sign(theirs, canonical), theirs)
    assert ours["Authorization"].endswith(f"Signature={signature}")
    assert ("x-amz-security-token" in ours) == bool(token)


def test_a_key_does_not_show_its_secret():
    assert "hidden" not in repr(SigningKey("AKID", "hidden", "hidden, too"))
