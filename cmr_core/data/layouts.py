"""What the columns of a file mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cmr_core.data.blocks import first_line, is_parquet, parquet_columns
from cmr_core.errors import FileFormatError
from cmr_core.spec import Frozen

Role = Literal["user", "item", "rating", "date", "market"]
Delimiter = Literal[",", ";", "\t", "|", " "]
ROLES: tuple[Role, ...] = ("user", "item", "rating", "date", "market")
HEADERS: dict[str, tuple[str, ...]] = {
    "xmarket": ("userId", "itemId", "rate", "date"),
    "wsdm": ("userId", "itemId", "rating"),
}


class Columns(Frozen):
    """Names of the columns in a table of one's own; None where there is none."""

    user: str = Field("user", min_length=1, max_length=200)
    item: str = Field("item", min_length=1, max_length=200)
    rating: str | None = Field("rating", min_length=1, max_length=200, description="None: every row counts as 1")
    date: str | None = Field("date", min_length=1, max_length=200, description="Dates or Unix times")
    market: str | None = Field(None, min_length=1, max_length=200, description="None: the file's name says the market")

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [name for _, name in self if name is not None]
        if len(set(names)) != len(names):
            raise ValueError(f"a column is mapped twice among {names}")
        return self


class Layout(Frozen):
    """How files are read.

    xmarket  space-separated `userId itemId rate date`, as XMarket's 5-core files
    wsdm     tab-separated `userId itemId rating`, as in the WSDM Cup 2022
    table    CSV or Parquet with the given columns; further columns are ignored
    """

    kind: Literal["xmarket", "wsdm", "table"] = "table"
    columns: Columns = Columns()
    delimiter: Delimiter = Field(",", description="Of CSV files (table only)")
    market_from: Literal["file", "folder"] = Field(
        "file", description="Whose name begins with the market, e.g. de_5core.txt or t1/train.tsv"
    )

    @property
    def separator(self) -> str:
        """The character between columns of a text file."""
        return {"xmarket": " ", "wsdm": "\t"}.get(self.kind, self.delimiter)

    def roles(self, header: Sequence[str], file: str) -> Mapping[Role, str]:
        """Which column plays which role. Raises FileFormatError where the header does not fit."""
        if self.kind in HEADERS:
            expected = HEADERS[self.kind]
            if tuple(header) != expected:
                raise FileFormatError(
                    "the header does not fit",
                    file=file,
                    line=1,
                    value=self.separator.join(header),
                    hint=f"The first line must be {self.separator.join(expected)!r}.",
                )
            return dict(zip(ROLES, expected, strict=False))
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise FileFormatError("two columns have one name", file=file, line=1, column=twice, hint="Rename one.")
        wanted: dict[Role, str] = {role: name for role in ROLES if (name := getattr(self.columns, role)) is not None}
        for role, name in wanted.items():
            if name not in header:
                raise FileFormatError(
                    f"there is no column for the {role}",
                    file=file,
                    line=1,
                    column=name,
                    hint=f"The columns are: {', '.join(header)[:300]}. Map one of them, or check the delimiter.",
                )
        return wanted


def guess_layout(path: Path) -> Layout:
    """The layout whose header the file has; a table with the default column names otherwise.

    Of the default names, `rating`, `date` and `market` are used where the header has them.
    """
    header = _header_of(path)
    if header == " ".join(HEADERS["xmarket"]):
        return Layout(kind="xmarket")
    if header == "\t".join(HEADERS["wsdm"]):
        return Layout(kind="wsdm")
    delimiters: tuple[Delimiter, ...] = (",", ";", "\t", "|")
    delimiter = next((d for d in delimiters if d in header), ",")
    names = header.replace('"', "").split(delimiter)
    rating, date, market = (role if role in names else None for role in ("rating", "date", "market"))
    return Layout(columns=Columns(rating=rating, date=date, market=market), delimiter=delimiter)


def _header_of(path: Path) -> str:
    return ",".join(parquet_columns(path)) if is_parquet(path) else first_line(path)
