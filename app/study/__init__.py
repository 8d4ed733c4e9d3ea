"""What a study's figures show, as tables: rows of runs in, rows of a figure out. No Streamlit here."""
