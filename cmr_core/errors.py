"""Every error that the project raises on purpose.

CmrError                      has `.hint`: what to do next, in words an analyst understands
├── SpecError                 a job, study, setting or selection that does not exist or makes no sense
├── DataError                 a corpus or split that cannot serve
│   ├── FileFormatError       a file that breaks its format: file, line, column, value, remedy
│   └── DownloadError         a fetch that failed or brought the wrong bytes
├── NotFoundError             no such corpus, run, study or artifact
├── IntegrityError            stored bytes that differ from their checksum
├── DeviceError               the device that was asked for is not there
├── TrainingError             training that cannot go on (a loss that is not finite, an empty market)
├── ConflictError             somebody else changed it first, or its state forbids the change
├── NotPermittedError         the actor's role forbids the change
└── Cancelled                 not a fault: somebody asked the run to stop
"""

from __future__ import annotations


class CmrError(Exception):
    """Base of the tree; `str()` is the cause, `.hint` the next step."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def explain(self) -> str:
        """Cause and next step in one text."""
        return f"{self} {self.hint}".strip()


class SpecError(CmrError): ...


class DataError(CmrError): ...


class FileFormatError(DataError):
    """A file that breaks its format. Line and column are 1-based; None where the fault is the file's as a whole."""

    def __init__(
        self,
        message: str,
        *,
        file: str,
        line: int | None = None,
        column: str | None = None,
        value: str | None = None,
        hint: str = "",
    ) -> None:
        where = file + (f", line {line}" if line is not None else "") + (f", column {column}" if column else "")
        shown = f" (found {value[:80]!r})" if value is not None else ""
        super().__init__(f"{where}: {message}{shown}.", hint=hint)
        self.file, self.line, self.column, self.value = file, line, column, value


class DownloadError(DataError): ...


class NotFoundError(CmrError): ...


class IntegrityError(CmrError): ...


class DeviceError(CmrError): ...


class TrainingError(CmrError): ...


class ConflictError(CmrError): ...


class NotPermittedError(CmrError): ...


class Cancelled(CmrError):
    """Raised by a training loop that saw the cancel flag."""
