"""core.locations: until when a signed URL holds, in the words of each store."""

import pytest

from lazysif.core.locations import has_expired, signed_until_s
from lazysif.model import Location

NOON = 1_767_268_800.0
"""2026-01-01 12:00:00 UTC."""


@pytest.mark.parametrize(
    ("query", "until_s"),
    [
        ("X-Amz-Date=20260101T120000Z&X-Amz-Expires=900", NOON + 900),
        ("X-Goog-Date=20260101T120000Z&X-Goog-Expires=60", NOON + 60),
        ("Expires=1767268800&Signature=x", NOON),
        ("temp_url_sig=x&temp_url_expires=1767268800", NOON),
        ("temp_url_expires=2026-01-01T12:00:00Z", NOON),
        ("se=2026-01-01T12%3A00%3A00Z&sig=x", NOON),
        ("", None),
        ("se=tomorrow", None),
        ("Expires=" + "9" * 12, None),
        ("X-Amz-Date=today&X-Amz-Expires=900", None),
        ("X-Amz-Date=20260101T120000Z&X-Amz-Expires=soon", None),
        ("X-Amz-Date=20260101T120000Z&X-Amz-Expires=" + "9" * 10, None),
    ],
)
def test_until_when_a_signature_holds(query, until_s):
    assert signed_until_s(f"https://store.example/a?{query}") == until_s


def test_what_is_about_to_end_is_not_used_any_more():
    location = Location("https://store.example/a", "https://store.example/a", expires_at_s=NOON)
    assert [has_expired(location, NOON - left) for left in (31, 30, 0)] == [False, True, True]
