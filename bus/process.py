"""Child processes that do not outlive their parent, whatever ends it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: int = signal.SIGTERM) -> None:
    """Run in a child before exec: ask Linux to send `death_signal` when the parent dies (elsewhere: nothing)."""
    if _libc is not None:
        parent = os.getppid()
        _libc.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
