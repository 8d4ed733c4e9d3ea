"""What leaves the house is safe in a spreadsheet and compiles in LaTeX."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import exports

RISKY = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")


@pytest.mark.parametrize("text", RISKY)
def test_formulas_are_defused_in_cells_and_headers(text: str) -> None:
    table = exports.csv(pd.DataFrame({text: [text, "fine"]})).decode()
    rows = list(csv.reader(io.StringIO(table, newline="")))
    safe = "'" + text.replace("\r", " ")
    assert rows == [[safe], [safe], ["fine"]]


def test_numbers_stay_numbers() -> None:
    assert exports.csv(pd.DataFrame({"x": [-0.5, 2.0]})) == b"x\n-0.5\n2.0\n"


@given(st.text(max_size=30))
def test_no_cell_begins_like_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(exports.csv(pd.DataFrame({"x": [text]})).decode(), newline="")))
    assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)


def test_notes_cannot_break_out_of_their_line() -> None:
    table = exports.csv(pd.DataFrame({"x": [1]}), ["NDCG@10\n=cmd"]).decode()
    assert table == "# NDCG@10 =cmd\nx\n1\n"


def test_booktabs() -> None:
    rows = [["EASE & co", "**0.5 ± 0.1** ▲", "__0.4__"], ["LightGCN", "—", "0.1_2"]]
    table = exports.booktabs(["", "de", "jp"], rows, caption="NDCG@10, 80 %", notes=["N 85\n\\evil"])
    assert table.splitlines() == [
        r"% N 85 \evil",
        r"\begin{table}[t]",
        r"\centering",
        r"\caption{NDCG@10, 80 \%}",
        r"\begin{tabular}{lcc}",
        r"\toprule",
        r" & de & jp \\",
        r"\midrule",
        r"EASE \& co & \textbf{0.5 $\pm$ 0.1} $\uparrow$ & \underline{0.4} \\",
        r"LightGCN & --- & 0.1\_2 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
