"""When to ask again. Pure: time and chance come in as arguments."""

from __future__ import annotations

from lazysif.errors import LazysifError, SourceUnavailable

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 5.0


def retry_delay_s(
    error: LazysifError, attempt: int, *, elapsed_s: float, budget_s: float, max_attempts: int, jitter: float
) -> float | None:
    """Seconds to wait before the next attempt, or None to give up.

    Doubles from 0.1 s to 5 s, spread over the upper half by `jitter` in [0, 1) so that a thousand nodes do not
    come back at once; a Retry-After is the least wait. Only temporary errors are worth another attempt, and
    only if it still can end within `budget_s` of the first.
    """
    if not error.temporary or attempt >= max_attempts:
        return None
    delay = min(_FIRST_DELAY_S * 2 ** (attempt - 1), _MAX_DELAY_S) * (0.5 + jitter / 2)
    if isinstance(error, SourceUnavailable) and error.retry_after_s is not None:
        delay = max(delay, error.retry_after_s * (1 + jitter / 10))
    return delay if elapsed_s + delay < budget_s else None
