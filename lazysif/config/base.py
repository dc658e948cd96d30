"""What all tables of the file share."""

from __future__ import annotations

from typing import Annotated

import msgspec

# A year: longer is a slip of the pen, and `inf` breaks JSON in `status`.
Span = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
SpanOrNone = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; the fields are its keys."""
