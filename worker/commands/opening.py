"""How commands reach the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.settings import get_settings

if TYPE_CHECKING:
    from worker.store.session import Store


def opened() -> Store:
    """The store. A state folder that has no database yet gets one; any other is only changed by `cmr migrate`."""
    from worker.store.session import migrate, open_store

    settings = get_settings()
    if not settings.database_url and not (settings.root / "cmr.db").exists():
        migrate(settings)
    return open_store(settings)
