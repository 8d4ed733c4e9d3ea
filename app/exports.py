"""Files to take away: CSV that no spreadsheet runs as a formula, LaTeX with booktabs. No Streamlit here.

Charts are saved as PNG by the camera button above each chart, in the browser; no renderer is needed on the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from cmr_core.evaluation.latex import latex

_FORMULA = ("=", "+", "-", "@", "\t")


def csv(table: pd.DataFrame, notes: Sequence[str] = ()) -> bytes:
    """UTF-8 CSV; text that a spreadsheet would run as a formula gets an apostrophe. Notes stand above, behind `# `."""
    safe = table.rename(columns=_defuse).map(_defuse)
    head = "".join(f"# {' '.join(note.split())}\n" for note in notes)
    return (head + safe.to_csv(index=False)).encode()


def booktabs(columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, notes: Sequence[str] = ()) -> str:
    """A LaTeX table (package booktabs). A cell is plain text; it may begin with `**bold**` or `__underlined__`."""
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [r"\begin{table}[t]", r"\centering", rf"\caption{{{latex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'c' * (len(columns) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(latex, columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    bold = re.fullmatch(r"\*\*(.+?)\*\*(.*)", text, re.DOTALL)
    if bold:
        return rf"\textbf{{{latex(bold[1])}}}{latex(bold[2])}"
    under = re.fullmatch(r"__(.+?)__(.*)", text, re.DOTALL)
    if under:
        return rf"\underline{{{latex(under[1])}}}{latex(under[2])}"
    return latex(text)


def _defuse(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = re.sub(r"[\r\n]+", " ", value)  # a bare carriage return would begin a row in some spreadsheets
    return "'" + line if line.lstrip(" ").startswith(_FORMULA) else line
