"""What went on beside a measurement: read before and after the samples, never inside them."""

import os
from types import TracebackType
from typing import Self

import psutil

#: share of the processor in others' hands from which a row is flagged
FOREIGN_LOAD_LIMIT = 0.08


class HostLoad:
    """How much of the processor others used while the block ran.

    Time that a hypervisor gave to other machines (steal) counts as theirs. Attributes are set
    when the block ends: ``foreign``, a share of all cores' time between 0 and 1, or None where
    the system does not tell or the block was too short for its clock.
    """

    foreign: float | None = None

    def __enter__(self) -> Self:
        """Read the clocks."""
        self._before = _reading()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read them again."""
        total, idle, own = (
            after - before for after, before in zip(_reading(), self._before, strict=True)
        )
        # The system counts in hundredths of a second: below ten of them a share means nothing.
        if total >= 0.1:
            self.foreign = min(1.0, max(0.0, (total - idle - own) / total))


def _reading() -> tuple[float, float, float]:
    """Seconds since the system's start: of all cores, of idle ones, of this process."""
    times = psutil.cpu_times()
    # guest time is counted in user time already
    counted = {name: value for name, value in times._asdict().items() if "guest" not in name}
    idle = counted.get("idle", 0.0) + counted.get("iowait", 0.0)
    mine = os.times()
    return sum(counted.values()), idle, mine.user + mine.system
