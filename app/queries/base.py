"""What all queries share."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Executable

from worker.store.session import Store


def frame(store: Store, query: Executable) -> pd.DataFrame:
    """The answer as a table, also where it has no row."""
    with store.read() as session:
        answer = session.execute(query)
        return pd.DataFrame(answer.all(), columns=list(answer.keys()))
