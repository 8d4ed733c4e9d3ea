"""A corpus as Parquet bytes and back; how the store keeps it. Ids stay text, the digest stays the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmr_core.data.market import Corpus, build_corpus
from cmr_core.errors import DataError, IntegrityError

SCHEMA = pa.schema(
    [
        ("market", pa.string()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float32()),
        ("day", pa.int32()),
    ]
)


def to_parquet(corpus: Corpus) -> bytes:
    """All rows, market by market, in file order. Raises DataError where an id has no row and would be lost."""
    parts = []
    for name in sorted(corpus.markets):
        market = corpus.markets[name]
        if len(np.unique(market.user)) != len(market.users):
            raise DataError(f"Market {name!r} lists users without interactions.", hint="Build it from its rows.")
        columns = {
            "market": np.full(len(market), name, dtype=object),
            "user": market.users[market.user],
            "item": corpus.items[market.item],
            "rating": market.rating,
            "day": market.day,
        }
        parts.append(pa.table(columns, schema=SCHEMA))
    if len(np.unique(np.concatenate([m.item for m in corpus.markets.values()]))) != len(corpus.items):
        raise DataError("The corpus lists items that no market sells.", hint="Build it from its rows.")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(parts), sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(data: bytes, name: str) -> Corpus:
    """The corpus that `to_parquet` wrote. Raises IntegrityError where the bytes are something else."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        raise IntegrityError("Stored corpus bytes are not a Parquet file.", hint="Add the corpus again.") from None
    if not table.schema.equals(SCHEMA):
        raise IntegrityError("Stored corpus bytes have unexpected columns.", hint="Add the corpus again.")
    return build_corpus(name, table)
