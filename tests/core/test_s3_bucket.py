"""core.s3_bucket: what a remote's keys mean, where requests go, and which are signed."""

import pytest

from lazysif.core.s3_bucket import Region, bucket_address

AWS = "https://images.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("url", "keys", "expected"),
    [
        ("s3://images", {}, f"{AWS}/d/a.sif"),
        ("s3://images/sif/", {}, f"{AWS}/sif/d/a.sif"),
        ("s3://images", {"addressing": "path"}, "https://s3.amazonaws.com/images/d/a.sif"),
        ("s3://my.images", {}, "https://s3.amazonaws.com/my.images/d/a.sif"),
        ("s3://Images", {}, "https://s3.amazonaws.com/Images/d/a.sif"),
        ("s3://images", {"region": "cn-north-1"}, "https://images.s3.amazonaws.com.cn/d/a.sif"),
        ("s3://images", {"region": "eu-west-1"}, f"{AWS}/d/a.sif"),
        ("https://images.s3.eu-west-1.amazonaws.com/sif", {}, f"{AWS}/sif/d/a.sif"),
        ("https://s3.eu-west-1.amazonaws.com/images/sif", {}, f"{AWS}/sif/d/a.sif"),
        ("https://s3-eu-west-1.amazonaws.com/images", {}, f"{AWS}/d/a.sif"),
        ("s3://images/sif", {"endpoint": "http://h:9000/"}, "http://h:9000/images/sif/d/a.sif"),
        ("s3://images", {"endpoint": "https://h", "addressing": "virtual"}, "https://images.h/d/a.sif"),
        ("http://h:9000/images/sif", {}, "http://h:9000/images/sif/d/a.sif"),
        ("s3://tenant:images", {"endpoint": "http://h"}, "http://h/tenant%3Aimages/d/a.sif"),
        ("https://h/a%20prefix", {}, ValueError),
        ("https://h/images/a%20prefix", {}, "https://h/images/a%20prefix/d/a.sif"),
        ("http://images.s3.amazonaws.com/x", {}, ValueError),
        ("https://h/images", {"endpoint": "https://h"}, ValueError),
        ("https://h/", {}, ValueError),
        ("s3:///x", {}, ValueError),
        ("s3://images/../x", {}, ValueError),
        ("s3://images", {"region": "eu west"}, ValueError),
    ],
)
def test_a_key_has_one_url(url, keys, expected):
    if expected is ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            bucket_address(url, **keys)
    else:
        assert bucket_address(url, **keys).url_of("d/a.sif") == expected


def test_keys_are_encoded_as_they_are_signed():
    url = bucket_address("s3://images").url_of("a+b é/(x)@~.sif")
    assert url == f"{AWS}/a%2Bb%20%C3%A9/%28x%29%40~.sif"


@pytest.mark.parametrize("path", ["..", "a/../b", "", "a//b", "a\n", "/".join(["é" * 100] * 6)])
def test_what_is_no_name_has_no_url(path):
    with pytest.raises(ValueError, match="not a path"):
        bucket_address("s3://images").url_of(path)


def test_a_listing_asks_for_one_directory():
    url = bucket_address("s3://images/sif").listing_url("d e", "to+ken/", 1000)
    assert url == (
        f"{AWS}/?list-type=2&delimiter=%2F&encoding-type=url&max-keys=1000&prefix=sif%2Fd%20e%2F"
        "&continuation-token=to%2Bken%2F"
    )
    assert "prefix" not in bucket_address("s3://images").listing_url("", "", 1)


def test_requests_go_to_the_region():
    address = bucket_address("s3://images")
    region = Region(address)
    url = address.url_of("a.sif") + "?versionId=1"
    assert address.placed(url, region.known) == url
    assert region.for_signing(url) == "us-east-1"
    assert region.learn("eu-west-1", url)
    placed = address.placed(url, region.known)
    assert placed == "https://images.s3.eu-west-1.amazonaws.com/a.sif?versionId=1"
    assert region.for_signing(placed) == "eu-west-1"
    assert not region.learn("eu-west-1", placed)


def test_another_provider_has_one_address_and_may_have_a_region():
    address = bucket_address("s3://images", endpoint="http://h:9000")
    region = Region(address)
    url = address.url_of("a.sif")
    assert region.learn("garage", url)
    assert address.placed(url, region.known) == url
    assert region.for_signing(url) == "garage"


@pytest.mark.parametrize("told", ["eu-west-1.evil.example/", "", "a b", "us-east-1"])
def test_what_is_no_news_or_no_region_is_not_learned(told):
    address = bucket_address("s3://images")
    assert not Region(address).learn(told, address.url_of("a.sif"))


@pytest.mark.parametrize(
    ("url", "owned"),
    [
        (f"{AWS}/a.sif", True),
        ("https://images.s3.eu-west-1.amazonaws.com/a.sif?versionId=1", True),
        ("https://images.s3-eu-west-1.amazonaws.com/a.sif", True),
        ("https://s3.eu-west-1.amazonaws.com/images/a.sif", True),
        ("https://s3.eu-west-1.amazonaws.com/other/a.sif", False),
        ("https://other.s3.amazonaws.com/a.sif", False),
        ("http://images.s3.amazonaws.com/a.sif", False),
        ("https://images.s3.amazonaws.com.cn/a.sif", False),
        ("https://images.s3.amazonaws.com.evil.example/a.sif", False),
        ("https://images.s3.amazonaws.com:8443/a.sif", False),
        (f"{AWS}/a.sif?X-Amz-Signature=abc", False),
        (f"{AWS}/a.sif?x-amz-signature=abc", False),
    ],
)
def test_only_the_buckets_own_addresses_see_a_signature(url, owned):
    assert bucket_address("s3://images").owns(url) is owned


@pytest.mark.parametrize(
    ("url", "owned"),
    [
        ("http://h:9000/images/a.sif", True),
        ("http://h:9001/images/a.sif", False),
        ("https://h:9000/images/a.sif", False),
        (f"{AWS}/a.sif", False),
    ],
)
def test_another_provider_sees_its_own(url, owned):
    assert bucket_address("s3://images", endpoint="http://h:9000").owns(url) is owned
