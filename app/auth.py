"""Who is using the pages. What they may do is decided in the store, by role; a hidden button is only a courtesy."""

from __future__ import annotations

from worker.settings import get_settings
from worker.store.audit import LOCAL, Action, Actor, may


def actor() -> Actor:
    """Whoever opened the page: the account that started the dashboard, in the role that `CMR_ROLE` gives its users.

    On a machine of one's own that is an administrator; a dashboard that only shows results is started as a viewer.
    """
    return Actor(LOCAL.name, get_settings().role)


def allowed(action: Action) -> bool:
    """Whether to show a control for the action."""
    return may(actor(), action)
