"""How much memory a run took at its peak, as the system counts it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"  # what resets VmHWM (man 5 proc)


class PeakMemory:
    """Counts from its making on. One run per process at a time: the numbers are the whole process's.

    Only Linux lets a process begin a new count of its peak; where it does not, or the file may not be written,
    the host's number is left out rather than guessed.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        if device != "cpu":
            torch.cuda.init()  # type: ignore[no-untyped-call] # the counter does not exist before
            torch.cuda.reset_peak_memory_stats(device)
        try:
            _CLEAR.write_text(_PEAK)
            self._counts = True
        except OSError:
            self._counts = False

    def mib(self) -> dict[str, str]:
        """`peak_memory_mib`: resident memory of the process, libraries included; `peak_gpu_memory_mib`: of tensors."""
        found = {}
        if self._counts:
            line = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
            found = {"peak_memory_mib": f"{int(line[1]) / 1024:.0f}"} if line else {}
        if self._device != "cpu":
            found["peak_gpu_memory_mib"] = f"{torch.cuda.max_memory_allocated(self._device) / 2**20:.0f}"
        return found
