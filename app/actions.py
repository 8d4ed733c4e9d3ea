"""Launch, cancel and retry, as several pages offer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from app import auth, frame, study_files, words
from cmr_core.errors import CmrError
from cmr_core.spec import StudySpec
from worker.queue import deliver
from worker.store.runs import request_cancel
from worker.store.runs import retry as queue_again
from worker.store.session import Store

CAN_CANCEL = ("queued", "running", "lost")
CAN_RETRY = ("failed", "cancelled", "lost")


def launch(store: Store, spec: StudySpec, *, then: str) -> None:
    """Launch the study and open the page `then` with it, or say why it cannot be launched."""
    try:
        launched, text = study_files.launch(store, spec)
    except CmrError as error:
        frame.tell(error)
        return
    note(text)
    st.switch_page(then, query_params={"study": launched.study_id})


def cancel(store: Store, run_ids: Sequence[str]) -> None:
    """Cancel the runs; say how many were, and why others were not."""
    _each(run_ids, "cancelled", lambda run_id: request_cancel(store, auth.actor(), run_id))


def retry(store: Store, run_ids: Sequence[str]) -> None:
    """Queue the runs again; say how many were, and why others were not."""

    def again(run_id: str) -> None:
        queue_again(store, auth.actor(), run_id)
        deliver(store, [run_id])

    _each(run_ids, "queued again", again)


def show_notes() -> None:
    """What the last action did, once."""
    for good, text in st.session_state.pop("notes", []):
        (st.success if good else st.error)(text)


def note(text: str, *, good: bool = True) -> None:
    """Keep a message for the page's next run."""
    st.session_state.setdefault("notes", []).append((good, text))


def _each(run_ids: Sequence[str], what: str, act: Callable[[str], None]) -> None:
    done = 0
    for run_id in run_ids:
        try:
            act(run_id)
            done += 1
        except CmrError as error:
            note(frame.literal(f"Run {run_id[:8]}: {error.explain()}"), good=False)
    if done:
        note(f"{words.plural(done, 'run')} {what}.")
