"""Names and numbers reach a LaTeX table as they are, and run no command in it."""

from __future__ import annotations

import pytest

from cmr_core.evaluation.latex import latex


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("50 % & more", r"50 \% \& more"),
        ("a_b#c$d", r"a\_b\#c\$d"),
        ("{x}", r"\{x\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("0.1 ± 0.2", r"0.1 $\pm$ 0.2"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        (
            r"a_b & 5% of #1 {x} ~^ $ \input",
            r"a\_b \& 5\% of \#1 \{x\} \textasciitilde{}\textasciicircum{} \$ \textbackslash{}input",
        ),
        ("a\n\nb", "a b"),
    ],
)
def test_latex_is_escaped(text: str, tex: str) -> None:
    assert latex(text) == tex
