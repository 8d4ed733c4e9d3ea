"""A study as one file, to carry finished runs to another machine: a zip of JSON, Parquet and safetensors.

    manifest.json           format, version, and sha256 and size of every other member
    study.json              the study, and which corpus it is about (its digest and markets, not its data)
    runs/<fingerprint>.json one finished run: spec, dates, means, stages, what the method chose, its artifacts
    blobs/<sha256>          the artifacts' bytes, each once

Members are stored as they are, so that nothing can grow on reading: what they hold together never exceeds the file.
No member's name becomes a path. Every read is compared with the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from cmr_core.errors import FileFormatError, IntegrityError, SpecError
from cmr_core.spec import Frozen, parse
from worker.store.study_entries import FORMAT, VERSION, Manifest, Member, RunEntry, StudyEntry

MOST_MEMBERS = 50_000
MOST_JSON = 16 * 2**20  # bytes of one JSON member
MOST_BLOB = 2 * 2**30
_MEMBER = re.compile(r"manifest\.json|study\.json|runs/[0-9a-f]{64}\.json|blobs/[0-9a-f]{64}")
AGAIN = "Export the study again and copy the file anew."

T = TypeVar("T", bound=Frozen)


class Writer:
    """Writes an archive into an open file. Use as a context manager: leaving it without an error adds the manifest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._members: dict[str, Member] = {}

    def add(self, name: str, data: bytes) -> None:
        """Add a member; one that is there already (the same bytes of two runs) is not added twice."""
        if name not in self._members:
            self._members[name] = Member(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            self._zip.writestr(zipfile.ZipInfo(name), data)

    def add_entry(self, name: str, entry: Frozen) -> None:
        """Add an entry as JSON."""
        self.add(name, entry.canonical().encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._zip:
            if error is None:
                manifest = Manifest(members=self._members).canonical()
                self._zip.writestr(zipfile.ZipInfo("manifest.json"), manifest.encode())


class Reader:
    """Reads an archive and believes nothing in it. Use as a context manager.

    Opening raises FileFormatError for what is no complete archive of this version.
    """

    def __init__(self, source: Path | bytes) -> None:
        self.name = str(source) if isinstance(source, Path) else "the file"
        self._file: IO[bytes] = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._infos = self._checked(self._zip.infolist(), self._file.seek(0, io.SEEK_END))
            self._members = self._manifest()
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError):
            self._file.close()
            raise self.fault("It is damaged, cut off, or no exported study") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    @property
    def fingerprints(self) -> list[str]:
        """Of the runs in the file."""
        return sorted(name[5:-5] for name in self._members if name.startswith("runs/"))

    def study(self) -> StudyEntry:
        """The study. Raises FileFormatError, IntegrityError."""
        return self._entry("study.json", StudyEntry)

    def run(self, fingerprint: str) -> RunEntry:
        """A run, whose spec has this fingerprint. Raises FileFormatError, IntegrityError."""
        name = f"runs/{fingerprint}.json"
        entry = self._entry(name, RunEntry)
        if entry.spec.fingerprint() != fingerprint:
            raise self.fault(f"{name} is another run than its name says")
        return entry

    def blob(self, sha256: str) -> bytes:
        """The bytes with this sha256. Raises FileFormatError where they are not in the file, IntegrityError."""
        name = f"blobs/{sha256}"
        if name not in self._members or self._members[name].sha256 != sha256:
            raise self.fault(f"{name} is missing")
        return self._read(name)

    def fault(self, message: str) -> FileFormatError:
        """An error about this file."""
        return FileFormatError(message, file=self.name, hint=AGAIN)

    def _checked(self, infos: list[zipfile.ZipInfo], size: int) -> Mapping[str, zipfile.ZipInfo]:
        if len(infos) > MOST_MEMBERS or sum(info.file_size for info in infos) > size:
            raise self.fault("It claims to hold more than it can")
        for info in infos:
            shown = info.filename[:100]
            if not _MEMBER.fullmatch(info.filename):
                raise self.fault(f"It has a member that no exported study has: {shown!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise self.fault(f"{shown} is compressed or encrypted, so cmr has not written it")
            if info.file_size > (MOST_BLOB if shown.startswith("blobs/") else MOST_JSON):
                raise self.fault(f"{shown} is too large: {info.file_size} bytes")
        found = {info.filename: info for info in infos}
        if len(found) < len(infos):
            raise self.fault("Two of its members have the same name")
        return found

    def _manifest(self) -> dict[str, Member]:
        if "manifest.json" not in self._infos:
            raise self.fault("It has no manifest.json, so it is no exported study")
        body = self._json(self._zip.read("manifest.json"), "manifest.json")
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise self.fault("It is no exported study")
        if body.get("schema_version") != VERSION:
            raise FileFormatError(
                f"It has version {str(body.get('schema_version'))[:20]}, and this program reads version {VERSION}",
                file=self.name,
                hint="Use the version of cmr that wrote it, or export again with this one.",
            )
        members = self._parse(Manifest, body, "manifest.json").members
        if set(members) != set(self._infos) - {"manifest.json"} or "study.json" not in members:
            raise self.fault("Its members are not those that its manifest lists")
        return members

    def _entry(self, name: str, model: type[T]) -> T:
        return self._parse(model, self._json(self._read(name), name), name)

    def _read(self, name: str) -> bytes:
        try:
            data = self._zip.read(name)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError):
            raise IntegrityError(f"{self.name}: {name} is damaged.", hint=AGAIN) from None
        known = self._members[name]
        if (hashlib.sha256(data).hexdigest(), len(data)) != (known.sha256, known.size):
            raise IntegrityError(f"{self.name}: {name} is not what the manifest says.", hint=AGAIN)
        return data

    def _json(self, data: bytes, name: str) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self.fault(f"{name} is not JSON") from None

    def _parse(self, model: type[T], body: Any, name: str) -> T:
        try:
            return parse(model, body)
        except SpecError as error:
            raise self.fault(f"{name}: {str(error).removesuffix('.')}") from None
