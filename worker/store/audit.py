"""Who may change what, and who did. Every changing function of the store asks here first."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy.orm import Session

from cmr_core.errors import NotPermittedError
from worker.store.clock import now
from worker.store.tables import AuditRow

Role = Literal["viewer", "analyst", "admin"]
Action = Literal[
    "launch",
    "cancel",
    "retry",
    "add corpus",
    "add lists",
    "rename corpus",
    "export study",
    "import study",
    "delete study",
    "draw picture",
]

_RANK: dict[str, int] = {role: rank for rank, role in enumerate(get_args(Role))}
_NEEDS: dict[Action, Role] = {
    "launch": "analyst",
    "cancel": "analyst",
    "retry": "analyst",
    "add corpus": "analyst",
    "add lists": "analyst",
    "rename corpus": "analyst",
    "export study": "analyst",
    "import study": "analyst",
    "delete study": "admin",
    "draw picture": "analyst",
}


@dataclass(frozen=True)
class Actor:
    """Who asks."""

    name: str
    role: Role


def _login() -> str:
    try:
        return getpass.getuser()[:64]
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "local"


LOCAL = Actor(_login(), "admin")


def may(actor: Actor, action: Action) -> bool:
    """Whether the actor's role allows the action; for pages that hide what is forbidden."""
    return _RANK.get(actor.role, -1) >= _RANK[_NEEDS[action]]


def require(actor: Actor, action: Action) -> None:
    """Raises NotPermittedError unless the actor's role allows the action."""
    if not may(actor, action):
        raise NotPermittedError(
            f"{actor.name} ({actor.role}) may not {action}.", hint=f"It needs the role {_NEEDS[action]}."
        )


def record(session: Session, actor: Actor, action: Action, subject: str, detail: dict[str, Any] | None = None) -> None:
    """Add a line to the audit log, in the same transaction as the change. Lines are never changed or removed."""
    session.add(
        AuditRow(at=now(), actor=actor.name, role=actor.role, action=action, subject=subject[:160], detail=detail)
    )
