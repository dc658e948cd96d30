"""S3, of AWS and of others, as a store of objects."""

from __future__ import annotations

from lazysif.core.object_listing import LONGEST_PAGE, ListingPage, directory_key
from lazysif.core.s3_answers import parse_listing
from lazysif.core.s3_bucket import BucketAddress
from lazysif.model import Location, Transport, VersionParameter
from lazysif.registries.json_answer import get

VERSIONS = VersionParameter("x-amz-version-id", "versionId")


class S3Store:
    """See `object_store.Store`. Its transport signs, and knows the bucket's region."""

    def __init__(self, address: BucketAddress) -> None:
        self._address = address

    def location(self, path: str) -> Location:
        """See `object_store.Store`."""
        url = self._address.url_of(path)
        return Location(url, url, version=VERSIONS)

    def listing_url(self, directory: str, token: str, most: int) -> str:
        """See `object_store.Store`."""
        return self._address.listing_url(directory, token, most)

    async def page(self, transport: Transport, directory: str, url: str) -> ListingPage:
        """See `object_store.Store`."""
        said = await get(transport, url, longest=LONGEST_PAGE)
        return parse_listing(said.body, directory_key(self._address.prefix, directory))
