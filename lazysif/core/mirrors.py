"""When a mirror's answer is of the very version that the origin named, and how both are asked. Pure.

A mirror says the same version if it gives the same validator. Hosts may give one file different ETags (Apache and
nginx write size and time differently); then the same size and the same Last-Modified, which is what mirrors are
made by (rsync -t), count as the same version, and the mirror is held to its own ETag from there on.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from lazysif.core.content_range import IsFile, check_range_answer, http_date_s, validator_of
from lazysif.core.names import join_url, origin_of, same_origin
from lazysif.errors import ImageChanged
from lazysif.model import AnswerHead, ByteRange, Image, Validator, ValidatorKind


def on_mirror(url: str, base_url: str, mirror_url: str) -> str | None:
    """The URL below the mirror's base that stands for `url` below the remote's own; None where it is not below it.

    The query of either is a signature for its own host: the mirror gets the mirror's.
    """
    path, base = urlsplit(url).path, urlsplit(join_url(base_url, "")).path
    if not same_origin(url, base_url) or not path.startswith(base):
        return None
    mirror = urlsplit(join_url(mirror_url, ""))
    return mirror._replace(path=mirror.path + path[len(base) :]).geturl()


def in_own_words(head: AnswerHead, base_url: str, mirror_url: str) -> AnswerHead:
    """The answer's place told as one below the remote's own base, where the mirror answered it itself."""
    own = on_mirror(head.url, mirror_url, base_url)
    return head if own is None else replace(head, url=origin_of(own))


def can_mirror(image: Image) -> bool:
    """Whether a version can be recognized at a mirror: not where nothing but one download holds it together."""
    return image.ranges and image.condition.kind in (ValidatorKind.ETAG, ValidatorKind.LAST_MODIFIED)


def agreed(head: AnswerHead, asked: ByteRange, image: Image) -> Validator:
    """The validator under which a mirror has the version, from an answer to a request without conditions.

    Raises:
        ImageChanged: another size, or neither the validator nor the time of the origin's.
        SourceProtocolError, AccessDenied, SourceUnavailable: as `check_range_answer`.
    """
    own = validator_of(head.headers)
    check_range_answer(head, asked, held_to(image, own))
    modified_s = http_date_s(head.headers.get("last-modified", ""))
    if not _same(image.condition, image.modified_s, own, modified_s):
        raise ImageChanged("the mirror has another version")
    return own


def same_version(origins: IsFile, mirrors: IsFile) -> bool:
    """Whether what a mirror told of a file is the version that the origin told of."""
    return origins.size_bytes == mirrors.size_bytes and _same(
        origins.validator, origins.modified_s, mirrors.validator, mirrors.modified_s
    )


def _same(origins: Validator, origins_s: int, mirrors: Validator, mirrors_s: int) -> bool:
    if ValidatorKind.NONE in (origins.kind, mirrors.kind):
        return False
    return origins == mirrors or (origins_s != 0 and origins_s == mirrors_s)


def held_to(image: Image, validator: Validator) -> Image:
    """The image as a mirror's answers are judged: by the mirror's own validator."""
    return replace(image, guard=validator)


def as_the_origin_says(head: AnswerHead, image: Image) -> AnswerHead:
    """An answer of the mirror that was found to be of this version, with the origin's validator."""
    name = "etag" if image.condition.kind is ValidatorKind.ETAG else "last-modified"
    return replace(head, headers={**head.headers, name: image.condition.value})
