"""For how long one daemon may believe what its predecessor was told of a name. Pure, no clock.

Two clocks tell how long ago that was, and the older answer counts. The wall clock goes on over a reboot, and can be
set; the time since the boot cannot be set, and is of that boot alone (nor does it run while a virtual machine is
stored away). What lies in the future of either was told by a clock that has been set: nothing is known then.
"""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.model import InodeNumber


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time that another process, or the next boot, can compare with its own.

    Args:
        wall_s: seconds since 1970.
        boot_s: seconds since the boot, those asleep included.
        boot: which boot that is; "" is not known.
    """

    wall_s: float
    boot_s: float
    boot: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """An origin said what a name means.

    Args:
        number: the inode that stands for what it said.
        at: when.
        asked_of: what the configuration then said of where names lead (`RemotePolicy.asked_of`).
    """

    number: InodeNumber
    at: Moment
    asked_of: str


def left_of(confirmed: Confirmation, asked_of: str, now: Moment, believed_s: float) -> float:
    """Seconds for which a confirmation may still be believed that holds for `believed_s` in all; 0.0 for none."""
    if confirmed.asked_of != asked_of:
        return 0.0
    then = confirmed.at
    ages = [now.wall_s - then.wall_s]
    if then.boot and then.boot == now.boot:
        ages.append(now.boot_s - then.boot_s)
    return max(believed_s - max(ages), 0.0) if min(ages) >= 0 else 0.0
