"""A made-up corpus with XMarket's shape and a known truth, for demonstration and tests.

Seven markets have the sizes of the XMarket electronics files times `scale`: partly shared items, a long tail, dates,
reviews of neighbouring variants on one day with one rating, a few repeats and a user id that two markets share.
Each item belongs to a topic and each user has three favourite topics; markets differ in how many items they file
under another topic than the rest of the world (`Truth.distance`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cmr_core.data.market import Corpus, build_corpus
from cmr_core.data.split import name_seed
from cmr_core.interfaces import FloatArray, IntArray

LAST_DAY = 18_580  # 2020-11-14
RATINGS = (0.04, 0.03, 0.06, 0.17, 0.70)  # share of 1 to 5 stars
SPARE = 1.7  # interactions drawn per one wanted, as some repeat others


@dataclass(frozen=True)
class Shape:
    """What one market is to look like (measured on the XMarket files); `single`, `more`: reviews per day."""

    users: int
    items: int
    pairs: int
    shared: float  # of its items, those also sold elsewhere
    single: float  # days with one review
    more: float  # mean number of reviews on the other days
    distance: float  # share of items that its users see differently


SHAPES = {
    "ca": Shape(4668, 5735, 43_891, 0.46, 0.69, 3.3, 0.3),
    "de": Shape(1851, 2179, 16_647, 0.91, 0.68, 3.5, 0.2),
    "fr": Shape(1838, 1879, 17_154, 0.93, 0.68, 3.6, 0.2),
    "in": Shape(239, 470, 1_973, 0.88, 0.64, 4.6, 0.0),
    "jp": Shape(487, 955, 4_355, 0.87, 0.70, 3.0, 0.0),
    "mx": Shape(1878, 1645, 16_933, 0.79, 0.50, 7.0, 1.0),
    "uk": Shape(3352, 3251, 30_874, 0.79, 0.66, 3.6, 0.0),
}


@dataclass(frozen=True)
class Truth:
    """What a comparison must find."""

    similar: tuple[str, str] = ("jp", "uk")  # a sparse target, and a rich source with the same taste
    opposed: tuple[str, str] = ("in", "mx")  # a target, and a source that sells the same items to the contrary taste
    distance: tuple[tuple[str, float], ...] = tuple((name, shape.distance) for name, shape in SHAPES.items())


TRUTH = Truth()


@dataclass(frozen=True)
class _World:
    """What markets share. Items are in an order in which neighbours are variants of each other."""

    topic: IntArray  # (n_items,)
    contrary: IntArray  # (n_items,) topics of those who see it differently
    weight: FloatArray  # (n_items,) popularity
    n_topics: int


def synthetic(seed: int = 0, scale: float = 1.0, *, name: str = "synthetic") -> Corpus:
    """The corpus of a seed: equal arguments, equal digest. About 1 s at full scale, less in proportion.

    Raises ValueError for a scale outside 0.01 to 10.
    """
    if not 0.01 <= scale <= 10:
        raise ValueError(f"scale must lie between 0.01 and 10, not {scale}")
    rng = np.random.default_rng([seed, 1])
    sold, n_items = _catalogues(scale, rng)
    world = _world(n_items, max(6, round(200 * scale**0.8)), rng)
    tables = []
    for market in sorted(SHAPES):
        rows = _market(SHAPES[market], sold[market], world, scale, np.random.default_rng([seed, name_seed(market)]))
        tables.append(_table(market, *rows))
    return build_corpus(name, pa.concat_tables(tables))


def _catalogues(scale: float, rng: np.random.Generator) -> tuple[dict[str, IntArray], int]:
    """Which items each market sells: some of a common pool, and its own. Similar and opposed pairs share most."""
    size = {name: max(24, round(shape.items * scale)) for name, shape in SHAPES.items()}
    common = {name: round(size[name] * shape.shared) for name, shape in SHAPES.items()}
    n_pool = max(max(common.values()), round(0.323 * sum(common.values())))
    breadth = np.log(np.arange(1, n_pool + 1))[rng.permutation(n_pool)]  # small is sold in many markets
    sold: dict[str, IntArray] = {}
    n_items = n_pool
    follows = dict((TRUTH.similar, TRUTH.opposed))
    for name in sorted(SHAPES, key=lambda name: name in follows):
        key = 0.75 * breadth - rng.gumbel(size=n_pool)
        if name in follows:
            key[~np.isin(np.arange(n_pool), sold[follows[name]])] += 3
        chosen = np.argsort(key)[: common[name]]
        own = n_items + np.arange(size[name] - common[name])
        n_items += len(own)
        sold[name] = np.concatenate([chosen, own])
    place = rng.permutation(n_items)
    return {name: np.sort(place[items]) for name, items in sold.items()}, n_items


def _world(n_items: int, n_topics: int, rng: np.random.Generator) -> _World:
    family = np.repeat(np.arange(n_items // 4 + 1), 4)[:n_items]
    topic = rng.integers(0, n_topics, n_items // 4 + 1)[family]
    contrary = rng.integers(0, n_topics, n_items)
    return _World(topic, contrary, np.exp(rng.normal(0, 2.2, n_items)), n_topics)


def _market(
    shape: Shape, sold: IntArray, world: _World, scale: float, rng: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Rows (user, item, rating, day): every item sells at least once, every user has some items."""
    n_users = max(12, round(shape.users * scale))
    opposed = rng.random(len(sold)) < shape.distance
    topic = np.where(opposed, world.contrary[sold], world.topic[sold])
    weight = np.where(opposed, 1 / world.weight[sold], world.weight[sold]) * np.exp(
        rng.normal(0, 0.25 + 0.8 * shape.distance, len(sold))
    )
    order = np.argsort(topic, kind="stable")
    sold, topic, weight = sold[order], topic[order], weight[order]
    taste = _favourites(n_users, topic, weight, rng)

    extra = rng.lognormal(np.log(shape.pairs / shape.users - 5.6) - 0.45, 0.95, n_users)
    wanted = 6 + np.minimum(extra, 60).astype(np.int64)
    user, size = _events(shape, wanted, rng)
    favourite = taste[user, np.minimum(rng.geometric(0.5, len(user)) - 1, 2)]
    favourite = np.where(rng.random(len(user)) < 0.15, topic[rng.integers(0, len(topic), len(user))], favourite)
    first, last = np.searchsorted(topic, favourite), np.searchsorted(topic, favourite, side="right")
    heap = np.concatenate([[0.0], np.cumsum(weight)])
    point = heap[first] + rng.random(len(user)) * (heap[last] - heap[first])
    base = np.clip(np.searchsorted(heap, point, side="right") - 1, first, last - 1)

    event = np.repeat(np.arange(len(user)), np.minimum(size, last - first))
    step = np.arange(len(event)) - np.searchsorted(event, event)
    at = first[event] + (base[event] - first[event] + step) % (last - first)[event]
    day = (LAST_DAY - np.minimum(rng.exponential(700, len(user)), 4000)).astype(np.int64)
    stars = rng.choice(5, size=len(user), p=RATINGS) + 1
    rows = np.stack([user[event], sold[at], stars[event], day[event]])
    return _finish(rows, wanted, sold, topic, taste, rng)


def _favourites(n_users: int, topic: IntArray, weight: FloatArray, rng: np.random.Generator) -> IntArray:
    """(n_users, 3) topics that the market sells; what sells much is liked by more users, but not in proportion."""
    present = np.unique(topic)
    mass = np.bincount(topic, weights=weight)[present] ** 0.75
    return present[rng.choice(len(present), size=(n_users, 3), p=mass / mass.sum())]


def _events(shape: Shape, wanted: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """User and number of reviews of each day on which somebody reviewed, more than `wanted` in all."""
    n_users, drawn = len(wanted), np.ceil(wanted * SPARE).astype(np.int64)
    many = 1 + rng.geometric(1 / (shape.more - 1), size=(n_users, 120))
    size = np.where(rng.random((n_users, 120)) < shape.single, 1, many)
    before = np.cumsum(size, axis=1) - size
    size = np.minimum(size, drawn[:, None] - before)
    user, column = np.nonzero(size > 0)
    return user, size[user, column]


def _finish(
    rows: IntArray, wanted: IntArray, sold: IntArray, topic: IntArray, taste: IntArray, rng: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Users keep as many pairs as they want, 2 % come again; what nobody took goes to somebody who likes its topic."""
    _, once = np.unique(rows[0] * (sold.max() + 1) + rows[1], return_index=True)
    once = np.sort(once)
    once = once[np.arange(len(once)) - np.searchsorted(rows[0, once], rows[0, once]) < wanted[rows[0, once]]]
    again = rng.choice(len(once), size=round(0.022 * len(once)), replace=False)
    rows = rows[:, once]
    repeated = rows[:, again].copy()
    repeated[3] = np.minimum(repeated[3] + rng.integers(0, 400, len(again)), LAST_DAY)
    unsold = ~np.isin(sold, rows[1])
    missing, of_topic = sold[unsold], topic[unsold]
    fans = np.argsort(taste[:, 0], kind="stable")
    low = np.searchsorted(taste[fans, 0], of_topic)
    high = np.searchsorted(taste[fans, 0], of_topic, side="right")
    pick = low + (rng.random(len(missing)) * np.maximum(high - low, 1)).astype(np.int64)
    day = (LAST_DAY - np.minimum(rng.exponential(700, len(missing)), 4000)).astype(np.int64)
    bought = np.stack([fans[np.minimum(pick, len(fans) - 1)], missing, rng.choice(5, len(missing), p=RATINGS) + 1, day])
    everything = np.concatenate([rows, repeated, bought], axis=1)
    everything = everything[:, rng.permutation(everything.shape[1])]
    return everything[0], everything[1], everything[2], everything[3]


def _table(market: str, user: IntArray, item: IntArray, stars: IntArray, day: IntArray) -> pa.Table:
    ids = np.array([f"{market}-{i:05d}" for i in range(int(user.max()) + 1)], dtype=object)
    if market in ("de", "uk"):
        ids[0] = "traveller"
    products = np.array([f"B{i:06d}" for i in range(int(item.max()) + 1)], dtype=object)
    return pa.table(
        {
            "market": pa.array(np.full(len(user), market, dtype=object)),
            "user": pa.array(ids[user]),
            "item": pa.array(products[item]),
            "rating": stars.astype(np.float32),
            "day": day.astype(np.int32),
        }
    )
