"""The launch page's protocol: presets, imported lists, and one with every choice made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import streamlit as st

from app import draft
from cmr_core.errors import CmrError, SpecError
from cmr_core.spec import CandidateKind, EvalSpec, Protocol, SplitKind, SplitSpec, StudySpec, parse, protocol_digest
from worker.store.corpora import dated_markets, market_names
from worker.store.naming import protocol_names
from worker.store.tables import CorpusRow, ListsRow

CUSTOM = "custom"
SPLITS: dict[str, str] = {
    "events": "Events: a user's day stays together",
    "ratio": "Ratio: at random per user",
    "leave-one-out": "Leave one out: one item for validation, one for the test",
    "temporal": "Temporal: one point in time for everybody",
}
CANDIDATES: dict[str, str] = {
    "catalogue": "Everything that the market sells",
    "sampled-market": "A sample of what the market sells",
    "sampled-global": "A sample of what any market sells",
    "given": "Imported lists",
}


def protocols(
    corpus: CorpusRow, lists: Sequence[ListsRow], given: StudySpec | None, tag: str, faults: list[CmrError]
) -> tuple[Protocol, ...]:
    """The chosen protocols; what is wrong with the custom one is put into `faults`."""
    st.subheader("3 Protocol", anchor=False)
    offered = draft.protocols(corpus, lists)
    options = {name: protocol for name, (_, protocol) in offered.items()}
    texts = {name: text for name, (text, _) in offered.items()}
    first = ["events"] if set(dated_markets(corpus)) == set(market_names(corpus)) else ["ratio"]
    if given is not None:
        own = _own(given.protocols, corpus.digest)
        options, texts, first = own | options, {name: name for name in own} | texts, list(own)
    texts[CUSTOM] = "Custom: every choice by hand"
    picked = st.multiselect(
        "How data are divided, and what competes with the held-out items",
        [*options, CUSTOM], first, key=f"protocols-{tag}", format_func=texts.__getitem__,
    )  # fmt: skip
    chosen = [options[name] for name in picked if name != CUSTOM]
    if CUSTOM in picked:
        start = given.protocols[0] if given is not None else Protocol()
        with st.container(border=True):
            try:
                chosen.append(_custom(start, lists, f"custom-{tag}"))
            except CmrError as error:
                faults.append(error)
    return tuple(dict.fromkeys(chosen))


def cutoffs(text: str) -> list[int]:
    """Cutoffs from `5, 10, 20`. Raises SpecError that says which part is wrong."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not part.isascii() or not part.isdigit() or len(part) > 6:
            raise SpecError(f"{part[:40]!r} is no cutoff.", hint="Write whole numbers, such as 5, 10, 20.")
    return [int(part) for part in parts]


def _own(given: Sequence[Protocol], corpus: str) -> dict[str, Protocol]:
    """A study's protocols by name: a preset's, else in words."""
    digests = {protocol_digest(corpus, one.split, one.evaluation): one for one in given}
    names = protocol_names({digest: draft.preset_of(one) or one.text() for digest, one in digests.items()})
    return {names[digest]: one for digest, one in digests.items()}


def _custom(start: Protocol, lists: Sequence[ListsRow], key: str) -> Protocol:
    left, right = st.columns(2)
    with left:
        split = _split(start.split, key)
    with right:
        evaluation = _evaluation(start.evaluation, lists, key)
    with st.expander("More of the custom protocol"):
        left, right = st.columns(2)
        with left:
            split |= _more_split(start.split, key)
        with right:
            evaluation |= _more_evaluation(start.evaluation, key, drawn_by_run=split["each_seed"])
    found = parse(Protocol, {"split": split, "evaluation": evaluation})
    st.caption(f"In tables and charts: {found.text()}")
    return found


def _split(start: SplitSpec, key: str) -> dict[str, Any]:
    kinds = list(get_args(SplitKind))
    kind = st.selectbox(
        "Split", sorted(kinds, key=list(SPLITS).index), list(SPLITS).index(start.kind), key=f"{key}-kind",
        format_func=SPLITS.__getitem__,
    )  # fmt: skip
    if kind == "leave-one-out":
        orders = {"random": "Random items", "latest": "The latest items"}
        order = st.selectbox(
            "Hold out", list(orders), list(orders).index(start.order), key=f"{key}-order",
            format_func=orders.__getitem__, help=_help(SplitSpec, "order"),
        )  # fmt: skip
        return {"kind": kind, "order": order}
    valid, test = st.columns(2)
    return {
        "kind": kind,
        "valid": valid.number_input("For validation (%)", 1, 49, round(start.valid * 100), key=f"{key}-valid") / 100,
        "test": test.number_input("For the test (%)", 1, 49, round(start.test * 100), key=f"{key}-test") / 100,
    }


def _evaluation(start: EvalSpec, lists: Sequence[ListsRow], key: str) -> dict[str, Any]:
    kinds = [kind for kind in get_args(CandidateKind) if kind != "given" or lists]
    first = kinds.index(start.candidates) if start.candidates in kinds else 0
    kind = st.selectbox(
        "What competes with the held-out items", kinds, first, key=f"{key}-candidates",
        format_func=CANDIDATES.__getitem__,
    )  # fmt: skip
    if kind == "given":
        names = {row.digest: f"{row.name}, for market {row.market}" for row in lists}
        digest = st.selectbox("Lists", list(names), key=f"{key}-given", format_func=names.__getitem__)
        return {"candidates": kind, "given": digest}
    if kind == "catalogue":
        return {"candidates": kind}
    many = st.number_input(
        "Negatives per user", 1, 10_000, start.negatives, key=f"{key}-negatives", help=_help(EvalSpec, "negatives")
    )
    return {"candidates": kind, "negatives": many}


def _more_split(start: SplitSpec, key: str) -> dict[str, Any]:
    full = st.toggle("Sources in full", start.sources == "full", key=f"{key}-sources", help=_help(SplitSpec, "sources"))
    wide = st.toggle(
        "Items of all markets", start.catalogue == "all", key=f"{key}-catalogue", help=_help(SplitSpec, "catalogue")
    )
    each = st.toggle("A split per seed", start.each_seed, key=f"{key}-each", help=_help(SplitSpec, "each_seed"))
    return {
        "sources": "full" if full else "train",
        "catalogue": "all" if wide else "market",
        "deduplicate": st.toggle(
            "One row per user and item", start.deduplicate, key=f"{key}-once", help=_help(SplitSpec, "deduplicate")
        ),
        "min_rating": st.number_input(
            "Lowest rating that counts", value=start.min_rating, key=f"{key}-rating", placeholder="All count",
            help=_help(SplitSpec, "min_rating"),
        ),
        "each_seed": each,
        "seed": 0 if each else st.number_input("Seed of the split", 0, 2**31 - 1, start.seed, key=f"{key}-seed"),
    }  # fmt: skip


def _more_evaluation(start: EvalSpec, key: str, *, drawn_by_run: bool) -> dict[str, Any]:
    text = st.text_input("Cutoffs", ", ".join(map(str, start.cutoffs)), key=f"{key}-cutoffs", max_chars=80)
    best = st.text_input(
        "Metric that validation maximises", start.select, key=f"{key}-select", max_chars=20,
        help="One of recall, ndcg, hit, mrr, map and precision, at one of the cutoffs, such as ndcg@10.",
    )  # fmt: skip
    seed = 0
    if not drawn_by_run:  # else the run's seed draws them, as it does the split
        seed = st.number_input("Seed of the sampled negatives", 0, 2**31 - 1, start.seed, key=f"{key}-draw")
    return {"cutoffs": cutoffs(text), "select": best.strip(), "seed": seed}


def _help(model: type[SplitSpec] | type[EvalSpec], name: str) -> str | None:
    return model.model_fields[name].description
