"""Run: one job from its settings to its results."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import actions, auth, charts, exports, frame, queries, words
from cmr_core.errors import CmrError, NotFoundError
from cmr_core.models.registry import get
from cmr_core.spec import JobSpec, parse
from worker.store.artifacts import read_artifact
from worker.store.runs import log_lines
from worker.store.session import Store
from worker.store.tables import FINAL, RunRow


def body(store: Store) -> None:
    """The run that the address names."""
    run_id = st.query_params.get("id")
    if run_id is None:
        frame.header("Run")
        frame.empty("**Which run?** Pick one in the table of runs.", "views/runs.py", "To the runs")
        return
    try:
        run = queries.run(store, run_id)
    except NotFoundError:
        frame.header("Run")
        raise
    spec = parse(JobSpec, run.spec)
    frame.header(frame.literal(run.label), "")
    st.markdown(
        f"Market **{frame.literal(run.target)}** from {', '.join(spec.sources) or 'no source market'} · seed {run.seed}"
        f" · {run.protocol_text} · launched {words.minute(run.created_at)} by {frame.literal(run.created_by)}"
    )
    _buttons(store, run)
    actions.show_notes()
    if run.state in FINAL:
        _state(store, run)
        _curves(store, run)
    else:
        _live(store, run_id)
    _results(store, run)
    left, right = st.columns(2, gap="large")
    with left:
        _settings(run, spec)
    with right:
        _times(store, run)
    _artifacts(store, run)
    _log(store, run)


@st.fragment(run_every=2.0)
def _live(store: Store, run_id: str) -> None:
    run = queries.run(store, run_id)
    if run.state in FINAL:
        st.rerun()
    _state(store, run)
    _curves(store, run)


def _state(store: Store, run: RunRow) -> None:
    word = queries.STATE_WORDS[run.state]
    if run.state == "queued":
        ahead = queries.queue_position(store, run)
        st.info(f"Waiting for a worker with a {run.device.upper()}; {words.plural(ahead, 'run')} before it.")
        if queries.workers(store).empty:
            st.warning("No worker is alive. Start one with `./cmr worker`; the run is not lost.")
    elif run.state == "running":
        share = run.done / run.total if run.total else 0.0
        text = (
            f"{run.stage or 'starting'}: {run.done} of {run.total} · about {words.duration(run.remaining_seconds)} left"
        )
        st.progress(min(max(share, 0.0), 1.0), text=f"{text} · worker {run.worker} · attempt {run.attempt}")
    elif run.state == "failed":
        st.error(frame.literal(run.error or "The run failed."))
        st.markdown(f"**Next step:** {frame.literal(run.hint or 'Read the log below, then retry or clone and edit.')}")
    elif run.state == "lost":
        st.warning("Its worker fell silent. Another worker takes the run up where its last checkpoint stands.")
    else:
        st.markdown(f"**{word.capitalize()}** {words.minute(run.finished_at)} after {words.duration(run.seconds)}.")


def _buttons(store: Store, run: RunRow) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Cancel", disabled=run.state not in actions.CAN_CANCEL or not auth.allowed("cancel")):
            actions.cancel(store, [run.id])
            st.rerun()
        if st.button("Retry", disabled=run.state not in actions.CAN_RETRY or not auth.allowed("retry")):
            actions.retry(store, [run.id])
            st.rerun()
        if st.button("Clone and edit"):
            st.switch_page("views/launch.py", query_params={"run": run.id})
        if run.state == "succeeded":
            params = {"corpus": run.corpus[:12], "protocol": run.protocol[:12]}
            st.page_link("views/compare.py", label="Compare", query_params=params)
            st.page_link(
                "views/inspect.py",
                label="Inspect its users",
                query_params=params | {"market": run.target, "run": run.id},
            )


def _curves(store: Store, run: RunRow) -> None:
    points = queries.points(store, run.id)
    if points.empty:
        return
    st.subheader("Curves", anchor=False)
    st.plotly_chart(charts.curves(points), config=charts.config(f"curves-{run.id[:8]}"), key="curves")
    st.caption("The star marks the best validation value; that state was kept.")


def _results(store: Store, run: RunRow) -> None:
    metrics = queries.metrics(store, run.id)
    if metrics.empty:
        return
    st.subheader("Results", anchor=False)
    test = metrics[(metrics["part"] == "test") & (metrics["slice"] == "all")]
    users = int(test["n"].max()) if len(test) else 0
    st.caption(f"{words.count(users)} test users · {run.protocol_text} · {words.minute(run.finished_at)}")
    wide = metrics[metrics["slice"] == "all"].pivot_table(index="name", columns="part", values="value", sort=False)
    wide = (
        wide.reindex(sorted(wide.index, key=queries.metric_order))
        .rename(index=words.metric)
        .reset_index(names="Metric")
    )
    groups = metrics[(metrics["part"] == "test") & (metrics["slice"] != "all")]
    left, right = st.columns(2, gap="large")
    # what is beyond accuracy is about lists, and validation needs none
    names = {"test": "Test", "valid": "Validation"}
    left.dataframe(wide.rename(columns=names), hide_index=True, height=360, placeholder="—")
    table = groups.pivot_table(index=["slice", "n"], columns="name", values="value").reset_index()
    table = table.sort_values("slice", key=lambda names: names.map(_group_order), ignore_index=True)
    shown = [name for name in ("slice", "n", "ndcg@10", "recall@10", "hit@10", "mrr@10") if name in table]
    names = {"slice": "Group", "n": "N"} | {name: words.metric(name) for name in shown[2:]}
    right.dataframe(table[shown].rename(columns=names), hide_index=True)
    st.download_button("All metrics as CSV", exports.csv(metrics), f"metrics-{run.id[:8]}.csv", "text/csv")


def _group_order(name: str) -> tuple[str, int]:
    """Kind, then the fewest interactions: `item:5-19` before `item:20+`."""
    kind, _, bounds = name.partition(":")
    return kind, int(bounds.partition("-")[0].rstrip("+"))


def _settings(run: RunRow, spec: JobSpec) -> None:
    st.subheader("Settings", anchor=False)
    try:
        defaults = get(run.method).configure({}).model_dump(mode="json")
    except CmrError:
        defaults = {}
    changed = {name: value for name, value in spec.settings.items() if defaults.get(name) != value}
    only = st.toggle("Only what differs from the defaults", value=True)
    shown = changed if only else defaults | spec.settings
    if not shown:
        st.caption("All settings are the method's defaults.")
    else:
        rows = [(name, str(value), str(defaults.get(name, "—"))) for name, value in shown.items()]
        st.dataframe(pd.DataFrame(rows, columns=["Setting", "Value", "Default"]), hide_index=True)
    if str(run.shape).startswith("neural"):
        st.caption(
            "This method is a network. On the page Inspect its recommendations have no exact reason: layers mix "
            "everything with everything."
        )
    if run.details:
        st.markdown("**What the method chose**")
        rows2 = [(name, f"{v:.5g}" if isinstance(v, float) else str(v)) for name, v in run.details.items()]
        st.dataframe(pd.DataFrame(rows2, columns=["Name", "Value"]), hide_index=True)


def _times(store: Store, run: RunRow) -> None:
    if run.parameters is not None:
        st.subheader("Parameters", anchor=False)
        total = sum(run.parameters.values())
        names = {"Total": total, "Trainable": run.parameters.get("trainable", 0)}
        names |= {"Frozen": run.parameters.get("frozen", 0), "Closed form": run.parameters.get("closed_form", 0)}
        for column, (name, value) in zip(st.columns(4), names.items(), strict=True):
            column.metric(name, words.short(value))
    stages = queries.stages(store, run.id)
    if len(stages):
        st.subheader("Times", anchor=False)
        shown = stages.assign(seconds=stages["seconds"].map(words.duration))
        shown["cached"] = shown["cached"].map({True: "built by another run", False: ""})
        shown.columns = ["Stage", "Time", "Shared"]
        st.dataframe(shown, hide_index=True)
    if run.environment:
        with st.expander("Environment"):
            st.dataframe(pd.Series(run.environment, name="value").astype(str))


def _artifacts(store: Store, run: RunRow) -> None:
    kept = queries.artifacts(store, run.id)
    if kept.empty:
        return
    st.subheader("Files", anchor=False)
    for kind, size, sha256 in zip(kept["kind"], kept["size"], kept["sha256"], strict=True):
        ending = "safetensors" if kind == "model" else "parquet"
        name, checksum, button = st.columns([2, 6, 2], vertical_alignment="center")
        name.markdown(f"**{kind}** · {words.size(size)}")
        checksum.code(f"sha256 {sha256}", language=None)
        # the bytes are read, and their checksum checked, when somebody presses the button
        button.download_button(
            "Download",
            partial(read_artifact, store, run.id, kind),
            f"{run.method}-{run.target}-{run.id[:8]}-{kind}.{ending}",
            key=f"get-{kind}",
            on_click="ignore",
        )


def _log(store: Store, run: RunRow) -> None:
    lines = log_lines(store, run.id)
    with st.expander(f"Log ({words.plural(len(lines), 'line')})", expanded=run.state == "failed"):
        text = "\n".join(f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:<7} {line.text}" for line in lines)
        st.code(text or "Nothing yet.", language=None, wrap_lines=True)
    with st.expander("Job as JSON"):
        st.caption("The same job from a terminal: `python -m cmr_core job.json`.")
        st.json(run.spec)


frame.show(body)
