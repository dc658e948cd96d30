"""Google Cloud Storage as a store of objects."""

from __future__ import annotations

from lazysif.core.gcs import GcsBucket, parse_listing
from lazysif.core.object_listing import LONGEST_PAGE, ListingPage, directory_key
from lazysif.model import Location, Transport, VersionParameter
from lazysif.registries.json_answer import get_json

# the ETag counts changes of the metadata, too
GENERATIONS = VersionParameter("x-goog-generation", "generation", etag_tells=False)


class GcsStore:
    """See `object_store.Store`."""

    def __init__(self, bucket: GcsBucket) -> None:
        self._bucket = bucket

    def location(self, path: str) -> Location:
        """See `object_store.Store`."""
        return Location(self._bucket.media_url(path), self._bucket.origin_of(path), version=GENERATIONS)

    def listing_url(self, directory: str, token: str, most: int) -> str:
        """See `object_store.Store`."""
        return self._bucket.listing_url(directory, token, most)

    async def page(self, transport: Transport, directory: str, url: str) -> ListingPage:
        """See `object_store.Store`."""
        said = await get_json(transport, url, longest=LONGEST_PAGE)
        return parse_listing(said, directory_key(self._bucket.prefix, directory))
