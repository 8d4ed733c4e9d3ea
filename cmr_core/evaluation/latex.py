"""Text as LaTeX prints it: for tables on pages and from the command line."""

from __future__ import annotations

import re

_SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "—": "---",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
}


def latex(text: str) -> str:
    """The text on one line, with every character that LaTeX would interpret escaped."""
    return "".join(_SIGNS.get(sign, sign) for sign in re.sub(r"\s+", " ", text))
