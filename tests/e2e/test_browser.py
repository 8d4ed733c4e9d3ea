"""An analyst's way in a real browser: launch, watch, cancel, compare, inspect."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from app import queries
from tests.e2e.conftest import ARGUMENTS, CHROMIUM
from tests.faults.plant import Plant, wait

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
House = tuple[Plant, str]
expect = playwright.expect
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as engine:
        made = engine.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def page(browser: playwright.Browser, house: House) -> Iterator[playwright.Page]:
    """A fresh window of 1440 x 900; the test fails if the page threw an error."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=house[1])
    window = context.new_page()
    window.set_default_timeout(30_000)
    thrown: list[str] = []
    window.on("pageerror", lambda error: thrown.append(str(error)))
    yield window
    context.close()
    assert not thrown


def settled(page: playwright.Page) -> None:
    """Wait until the page's script has run to its end."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def choose(page: playwright.Page, label: str, *options: str) -> None:
    """Pick options of a list of several, after emptying it."""
    box = page.locator('[data-testid="stMultiSelect"]').filter(has_text=re.compile(f"^{label}"))
    box.wait_for()
    clear = box.get_by_label("Clear all")
    if clear.count():
        clear.first.click()
        settled(page)
    for option in options:
        box.locator("input").fill(option)
        page.get_by_role("option", name=option).first.click()
        settled(page)
    page.keyboard.press("Escape")


def launch(page: playwright.Page, method: str, market: str) -> None:
    page.goto("/launch")
    settled(page)
    choose(page, "Methods", method)
    choose(page, "Target markets", market)
    page.get_by_role("button", name="Launch", exact=True).click()
    expect(page.get_by_text("Launched 1 run;")).to_be_visible()


def test_a_deep_link_is_the_first_thing_that_anybody_opens(page: playwright.Page) -> None:
    page.goto("/markets")
    # the dashboard has only just started, and imports what the page needs
    expect(page.get_by_role("heading", name="Leak audit")).to_be_visible(timeout=90_000)
    expect(page.get_by_role("link", name="Compare")).to_be_visible()


def test_launch_watch_compare_inspect(page: playwright.Page, house: House) -> None:
    plant, _ = house
    launch(page, "Popularity", "de")
    launch(page, "EASE, weighted markets", "de")
    assert page.url.split("?")[0].endswith("/runs")
    expect(page.get_by_text(re.compile("1 worker alive"))).to_be_visible()
    # the table renews itself: nothing is clicked until both runs have ended
    wait("two finished runs", lambda: queries.state_counts(plant.store).get("succeeded", 0) >= 2, 120)
    expect(page.get_by_text(re.compile(r"\d finished"))).to_be_visible(timeout=15_000)

    page.get_by_role("link", name="Compare").click()
    expect(page.locator('[data-testid="stTable"]')).to_be_visible()
    table = page.locator('[data-testid="stTable"]')
    expect(table).to_contain_text("EASE, weighted markets")
    expect(table).to_contain_text("±")
    page.get_by_text("Chart", exact=True).click()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert "view=chart" in page.url
    shared = page.url  # what one sees is what one sends
    page.goto("/")
    page.goto(shared)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()

    with page.expect_download() as taken:
        page.locator(".js-plotly-plot").first.hover()
        page.locator('[data-title^="Download plot"]').first.click()
    assert taken.value.suggested_filename.endswith(".png")

    page.get_by_role("link", name="Inspect single users").click()
    expect(page.get_by_text("The parts add up to the score exactly.")).to_be_visible()
    expect(page.get_by_role("heading", name="Has had")).to_be_visible()


def test_a_method_is_described_and_shows_where_it_stands(page: playwright.Page, house: House) -> None:
    plant, _ = house
    if not queries.state_counts(plant.store).get("succeeded"):
        launch(page, "Popularity", "de")
        wait("a finished run", lambda: queries.state_counts(plant.store).get("succeeded", 0) >= 1, 120)
    page.goto("/methods?method=popularity")
    expect(page.get_by_role("heading", name="Popularity", exact=True)).to_be_visible(timeout=90_000)
    expect(page.get_by_role("heading", name="Where it stands")).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    expect(page.get_by_text("In study files: popularity")).to_be_visible()
    page.get_by_role("link", name="Intervals and tests: Compare").click()
    expect(page.locator('[data-testid="stTable"]')).to_contain_text("Popularity")


def test_progress_is_seen_and_cancel_stops(page: playwright.Page, house: House) -> None:
    plant, _ = house
    page.goto("/launch")
    settled(page)
    choose(page, "Methods", "LightGCN, target only")
    choose(page, "Target markets", "uk")
    page.get_by_text("LightGCN, target only", exact=True).last.click()
    # long enough for a fast machine too: thousands of epochs of many small steps
    long = {"Teacher epochs": "5000", "Teacher patience": "1000", "Teacher eval every": "1", "Teacher batch": "16"}
    for label, value in long.items():
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Enter")
        settled(page)
    page.get_by_role("button", name="Launch", exact=True).click()
    expect(page.get_by_text("Launched 1 run;")).to_be_visible()
    wait("a running run", lambda: queries.runs(plant.store, states=["running"])[1], 60)
    run_id = str(queries.runs(plant.store, states=["running"])[0]["id"].iloc[0])

    page.goto(f"/run?id={run_id}")
    expect(page.get_by_text(re.compile(r"teacher: \d+ of 5000"))).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_text("1 run cancelled.")).to_be_visible()
    assert queries.run(plant.store, run_id).state == "cancelled"
    wait("the worker to let go", lambda: queries.workers(plant.store)["run_id"].isna().all(), 30)
    assert queries.run(plant.store, run_id).state == "cancelled"


def test_a_study_of_the_project_is_launched_with_one_click_and_fills_its_page(
    page: playwright.Page, house: House
) -> None:
    page.goto("/studies")
    card = page.locator(".st-key-card-sample")
    expect(card).to_contain_text("A first comparison, on made-up data", timeout=90_000)
    card.get_by_role("button", name="Launch", exact=True).click()
    expect(page.get_by_role("heading", name="A first comparison, on made-up data")).to_be_visible()
    assert "/study?study=" in page.url
    # nothing is clicked: the table comes when the runs are done
    table = page.locator('[data-testid="stTable"]')
    expect(table).to_contain_text("EASE, weighted markets", timeout=120_000)
    expect(table).to_contain_text("±")
    expect(page.get_by_role("progressbar")).to_have_count(0, timeout=240_000)
    expect(table).not_to_contain_text("—")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Export with results").click()
    assert taken.value.suggested_filename == "sample.zip"
    assert taken.value.path().read_bytes().startswith(b"PK")
    page.goto("/studies")
    expect(card).to_contain_text("28 of 28 runs", timeout=60_000)
    card.get_by_role("link", name="Open").click()
    expect(table).to_be_visible()


def test_a_wrong_address_is_told_kindly(page: playwright.Page) -> None:
    page.goto("/run?id=../../etc/passwd")
    expect(page.get_by_text("There is no run")).to_be_visible()
    page.goto("/compare?view=%3Cscript%3E&metric=nope")
    expect(page.get_by_text("which is not there").first).to_be_visible()
