"""Who is using the pages. What they may do is decided in the store, by role; a hidden button is only a courtesy."""

from __future__ import annotations

from worker.store.audit import LOCAL, Action, Actor, may


def actor() -> Actor:
    """Whoever opened the page: on a machine of one's own, the account that started the dashboard."""
    return LOCAL


def allowed(action: Action) -> bool:
    """Whether to show a control for the action."""
    return may(actor(), action)
