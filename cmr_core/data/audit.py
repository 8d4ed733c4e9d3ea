"""What in a corpus makes numbers look better than they are, and which protocol is safe."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmr_core.data.describe import overlap_counts, pair_counts
from cmr_core.data.market import Corpus, Market

SAME_DAY_WARNING, SAME_DAY_NOTE = 0.2, 0.05
LISTED = 1000  # user ids shared between markets that are named
RARE = 3  # an item with fewer interactions can hardly be learnt and tested


def audit(corpus: Corpus) -> dict[str, Any]:
    """Leaks and gaps; JSON-able.

    `markets[name]`: rows, pairs, repeats (rows beyond the first of a pair), same_day (share of the different pairs that
    share user, day and rating with another one; None without dates), one_day (share of users all of whose
    interactions lie on one day), short_users (with fewer than 3 different items), rare_items (share with fewer than 3
    interactions), dated (share of rows).
    `same_day`: the same over all markets. `shared_users`: user ids that several markets have, with the markets (the
    first 1000).
    `findings`: severity (`warning`, `note`, `fine`), topic, text, markets; `protocol`: kind and reason.
    """
    names = sorted(corpus.markets)
    facts = {name: _facts(corpus.markets[name]) for name in names}
    dated = [f for f in facts.values() if f["same_day"] is not None]
    pairs = sum(f["pairs"] for f in dated)
    overall = sum(f["same_day"] * f["pairs"] for f in dated) / pairs if pairs else None
    shared, lonely = _shared_users(corpus), _lonely(corpus, names)
    findings = [*_leaks(facts, overall), *_gaps(facts, shared, lonely)]
    return {
        "markets": facts,
        "same_day": overall,
        "shared_users": shared,
        "lonely_markets": lonely,
        "findings": findings,
        "protocol": _protocol(facts, overall),
    }


def _facts(market: Market) -> dict[str, Any]:
    keys, rows = pair_counts(market)
    per_user, per_item = np.bincount(keys // 2**31), np.bincount(keys % 2**31)
    per_item = per_item[per_item > 0]
    return {
        "rows": len(market),
        "pairs": len(keys),
        "repeats": int((rows - 1).sum()),
        "same_day": _same_day(market) if market.has_dates else None,
        "one_day": _one_day(market) if market.has_dates else None,
        "short_users": int((per_user < 3).sum()),
        "rare_items": float((per_item < RARE).mean()),
        "dated": float((market.day >= 0).mean()),
    }


def _same_day(market: Market) -> float:
    """Share of the different pairs (at their earliest date) that share user, day and rating with another one."""
    order = np.lexsort((market.day, market.item, market.user))
    key = market.user[order].astype(np.int64) * 2**31 + market.item[order]
    first = order[np.concatenate([[True], key[1:] != key[:-1]])]
    user, day, rating = market.user[first], market.day[first], market.rating[first]
    order = np.lexsort((rating, day, user))
    columns = [column[order] for column in (user, day, rating)]
    new = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    starts = np.flatnonzero(np.concatenate([[True], new]))
    sizes = np.diff(np.concatenate([starts, [len(first)]]))
    return float(sizes[sizes > 1].sum() / len(first))


def _one_day(market: Market) -> float:
    """Share of users whose interactions all lie on one day: an `events` split leaves them in training."""
    days = np.unique(market.user.astype(np.int64) * 2**31 + market.day)
    return float((np.bincount(days // 2**31) == 1).mean())


def _shared_users(corpus: Corpus) -> dict[str, list[str]]:
    names = sorted(corpus.markets)
    ids, counts = np.unique(np.concatenate([corpus.markets[name].users for name in names]), return_counts=True)
    homes: dict[str, list[str]] = {user: [] for user in ids[counts > 1][:LISTED]}
    for name in names:
        for user in homes.keys() & set(corpus.markets[name].users):
            homes[user].append(name)
    return homes


def _lonely(corpus: Corpus, names: list[str]) -> list[str]:
    """Markets that share no item with any other."""
    shared = overlap_counts(corpus, names)
    np.fill_diagonal(shared, 0)
    return [name for name, row in zip(names, shared, strict=True) if len(names) > 1 and not row.any()]


def _finding(severity: str, topic: str, text: str, markets: list[str]) -> dict[str, Any]:
    return {"severity": severity, "topic": topic, "text": text, "markets": markets}


def _leaks(facts: dict[str, dict[str, Any]], overall: float | None) -> list[dict[str, Any]]:
    findings = []
    repeats = {name: f["repeats"] for name, f in facts.items() if f["repeats"]}
    if repeats:
        share = sum(repeats.values()) / sum(f["rows"] for f in facts.values())
        text = (
            f"{sum(repeats.values()):,} rows ({share:.1%}) repeat a user and item that came before. Kept, a repeat in "
        )
        text += "training gives the test away; `deduplicate` (the default) removes them."
        findings.append(_finding("note", "repeats", text, sorted(repeats)))
    if overall is not None and overall >= SAME_DAY_NOTE:
        worst = max((n for n in facts if facts[n]["same_day"] is not None), key=lambda n: facts[n]["same_day"])
        text = f"{overall:.0%} of the interactions share user, day and rating with another one (most in {worst}: "
        text += (
            f"{facts[worst]['same_day']:.0%}), as variants of one product or one sitting do. A random split puts one "
        )
        text += "into training and its twin into the test, and rewards finding the twin. Safe: `events`, `temporal`."
        severity = "warning" if overall >= SAME_DAY_WARNING else "note"
        markets = [n for n in facts if (facts[n]["same_day"] or 0) >= SAME_DAY_NOTE]
        findings.append(_finding(severity, "same-day", text, markets))
    return findings


def _gaps(facts: dict[str, dict[str, Any]], shared: dict[str, list[str]], lonely: list[str]) -> list[dict[str, Any]]:
    findings = []
    if undated := [name for name, f in facts.items() if f["dated"] < 1]:
        text = "Dates are missing, so twins of one day cannot be kept together: `events` and `temporal` cannot be used."
        findings.append(_finding("warning", "no-dates", text, undated))
    if lonely:
        text = "These markets share no item with any other, so no other market can help them."
        findings.append(_finding("warning", "no-overlap", text, lonely))
    if shared:
        text = f"{len(shared):,} user ids occur in more than one market. They count as different users; where they are "
        text += "the same person, one market's training part may hold what another market's test asks for."
        findings.append(_finding("note", "shared-users", text, sorted({m for homes in shared.values() for m in homes})))
    if rare := [name for name, f in facts.items() if f["rare_items"] > 0.25]:
        text = (
            f"More than a quarter of the items have fewer than {RARE} interactions; held out, nothing is known of them."
        )
        findings.append(_finding("note", "rare-items", text, rare))
    if short := [name for name, f in facts.items() if f["short_users"]]:
        n = sum(facts[name]["short_users"] for name in short)
        text = f"{n:,} users have fewer than 3 different items and serve for training only."
        findings.append(_finding("note", "short-users", text, short))
    if settled := [name for name, f in facts.items() if (f["one_day"] or 0) > 0.25]:
        text = "More than a quarter of the users did everything on one day; an `events` split tests without them."
        findings.append(_finding("note", "one-day-users", text, settled))
    return findings or [_finding("fine", "nothing", "No leak and no gap was found.", sorted(facts))]


def _protocol(facts: dict[str, dict[str, Any]], overall: float | None) -> dict[str, str]:
    if any(f["dated"] < 1 for f in facts.values()):
        reason = "Without dates a random split is the only one; twins of one day may flatter every method."
        return {"kind": "ratio", "reason": reason}
    if overall is not None and overall >= SAME_DAY_NOTE:
        return {
            "kind": "events",
            "reason": "What a user did on one day stays on one side, so no twin gives the test away.",
        }
    return {"kind": "ratio", "reason": "Hardly any interactions share user, day and rating; a random split is safe."}
