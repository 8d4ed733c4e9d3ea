"""The dashboard's entry: `streamlit run app/main.py`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

PAGES = {
    "home": ("Overview", ":material/home:"),
    "studies": ("Studies", ":material/science:"),
    "launch": ("Launch", ":material/play_circle:"),
    "runs": ("Runs", ":material/list_alt:"),
    "compare": ("Compare", ":material/bar_chart:"),
    "inspect": ("Inspect", ":material/person_search:"),
    "markets": ("Markets", ":material/public:"),
    "methods": ("Methods", ":material/menu_book:"),
}


def main() -> None:
    """Set up the frame and run the page that the address names."""
    icon = Path(__file__).parent / "assets" / "icon.png"
    st.set_page_config(page_title="Cross-market recommendation", page_icon=str(icon), layout="wide")
    st.logo(str(icon), size="large")
    shown = [
        st.Page(f"views/{name}.py", title=title, icon=symbol, url_path=name, default=name == "home")
        for name, (title, symbol) in PAGES.items()
    ]
    single = [
        st.Page(f"views/{name}.py", title=title, icon=":material/article:", url_path=name, visibility="hidden")
        for name, title in (("run", "Run"), ("study", "Study"))
    ]
    st.navigation([*shown, *single], position="top").run()


main()
