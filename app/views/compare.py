"""Compare: coming next."""

from app import frame

frame.show(lambda store: frame.header("Compare"))
