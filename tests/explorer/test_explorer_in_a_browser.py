"""The explorer as people use it: twenty changes in a browser, on screens and phones, by keyboard.

Numbers come from ``opmerge plan --json``, of the same settings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from opmerge import PlanFile
from opmerge.page.sentences import number

Change = Callable[..., None]

SECONDS = 240.0  # on a machine that is busy with much else
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Reader:
    """A page, with what it asked for and complained of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(1000 * SECONDS)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.go(address)

    def go(self, address: str) -> None:
        self.page.goto(address)
        self.wait()

    def wait(self, *states: str) -> None:
        """Until the page shows the answer of the whole search, or one of these states."""
        deadline = time.monotonic() + SECONDS
        wanted, state = states or ("whole",), ""
        while state not in wanted:
            told = self.page.locator("#problem").text_content()
            assert state != "refused" or not told, told
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
            state = self.page.locator("body").get_attribute("data-state")

    def after(self, act: Callable[[], object], *states: str) -> None:
        """Do something that changes the view, and wait for its answer."""
        with self.page.expect_response(lambda response: "first=1" in response.url):
            act()
        self.wait(*states or ("first", "whole"))

    def text(self, place: str) -> str:
        return " ".join(self.page.locator(place).inner_text().split())

    @property
    def facts(self) -> dict[str, str]:
        names, values = (
            self.page.locator(f".facts {each}").all_inner_texts() for each in ("dt", "dd")
        )
        return dict(zip(names, values, strict=True))

    @property
    def view(self) -> dict[str, str]:
        query = parse_qs(urlsplit(self.page.url).query)
        return {name: values[0] for name, values in query.items()}


@pytest.fixture
def reader(browser: Any, address: str) -> Iterator[Reader]:
    made = Reader(
        browser, f"{address}?steps=16&budget=2e5", viewport={"width": 1280, "height": 900}
    )
    yield made
    made.context.close()


def test_numbers_are_those_of_the_command_line(reader: Reader, run: Any) -> None:
    _, printed, _ = run("plan", "digits", "--steps", 16, "--budget", "2e5", "--json")
    best = json.loads(printed)["best"]
    assert reader.facts["error of a sample (rms)"] == number(best["paired_rms"])
    assert reader.facts["merges"] == str(best["merges"])
    reader.after(lambda: reader.page.get_by_label("the linear theory, with proof").check(), "whole")
    _, printed, _ = run("plan", "digits", "--steps", 16, "--json")
    assert reader.facts["W2 to the teacher"] == number(json.loads(printed)["best"]["w2"])


@pytest.fixture
def change(reader: Reader) -> Change:
    """Do something that changes the view, and see that the page and the address follow."""

    def do(act: Callable[[], object], **expected: str) -> None:
        reader.after(act)
        assert {name: reader.view.get(name) for name in expected} == expected
        assert reader.page.locator("#shown svg").count() == 4
        assert reader.messages == []
        assert {urlsplit(url).netloc for url in reader.requests} == {
            urlsplit(reader.page.url).netloc
        }

    return do


def click(reader: Reader, name: str) -> Callable[[], object]:
    return lambda: reader.page.get_by_role("button", name=name, exact=True).click()


def write(reader: Reader, label: str, text: str) -> Callable[[], object]:
    return lambda: reader.page.get_by_label(label, exact=True).fill(text)


def press(reader: Reader, label: str, key: str) -> Callable[[], object]:
    return lambda: reader.page.get_by_label(label).press(key)


def choose(reader: Reader, label: str, value: str) -> Callable[[], object]:
    return lambda: reader.page.get_by_label(label, exact=True).select_option(value)


def test_every_control_changes_the_view_and_its_address(reader: Reader, change: Change) -> None:
    change(click(reader, "patches"), source="patches")
    change(click(reader, "one λ"), source="eigenvalues:2")
    change(press(reader, "eigenvalue λ", "Home"), source="eigenvalues:0.01")
    change(click(reader, "digits"), steps="16")
    change(write(reader, "teacher's steps T", "12"), steps="12")
    change(press(reader, "teacher's steps T, slider", "Home"), steps="4")
    change(write(reader, "teacher's steps T", "16"), steps="16")
    change(choose(reader, "schedule", "linear"), schedule="linear")
    change(press(reader, "student's steps K, slider", "End"), student_steps="8")
    change(write(reader, "student's steps K", "2"), student_steps="2")
    change(write(reader, "budget, network evaluations", "4e5"), budget="4e5")
    change(press(reader, "budget, slider", "End"), budget="1e10")
    change(write(reader, "budget, network evaluations", "2e5"), budget="2e5")
    change(choose(reader, "network", "mlp"), law="mlp")
    before = reader.text("#answer")
    change(lambda: reader.page.get_by_label("the linear theory, with proof").check())
    assert reader.view["theory"] == "linear"
    change(write(reader, "merge time s", "3"), merge_time="3.0")
    change(choose(reader, "students start from", "operator-copy"), merge_rule="operator-copy")
    change(lambda: reader.page.get_by_label("the law of merges, for a budget").check())
    assert reader.text("#answer") == before
    reader.page.go_back()
    reader.wait("first", "whole")
    assert reader.view["merge_rule"] == "operator-copy"
    assert reader.page.get_by_label("merge time s", exact=True).input_value() == "3"


def test_a_plan_by_hand_is_priced_sent_and_downloaded(
    reader: Reader, change: Change, browser: Any
) -> None:
    page, options = reader.page, reader.page.locator("#merge option")
    planners = options.all_inner_texts()
    page.locator("#merge").select_option("16-0")
    page.locator("#at").fill("6")
    change(click(reader, "Split there"))
    jumps = {option.get_attribute("value") for option in options.all()}
    assert {"16-6", "6-0", "16-0"} <= jumps
    page.locator("#merge").select_option("6-0")
    page.locator("#count").fill("77")
    change(click(reader, "Set"), plan=reader.view["plan"])
    assert "77" in reader.view["iterations"].split(",")
    page.locator("#to").fill("9")
    change(click(reader, "Add a handover there"), student_steps="2")
    page.locator("#to").fill("5")
    change(click(reader, "Move the chosen one there"), student_steps="2")
    assert page.locator("#handover option").all_inner_texts() == ["z_5"]
    reader.wait()
    colleague = Reader(browser, page.url, viewport={"width": 1280, "height": 900})
    assert colleague.text("#answer") == reader.text("#answer")
    assert colleague.text("#shown") == reader.text("#shown")
    colleague.context.close()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download plan.json").click()
    file = PlanFile.read(download.value.path())
    assert file.plan.boundaries == (16, 5, 0)
    assert number(file.predicted["paired_rms"]) == reader.facts["error of a sample (rms)"]
    change(click(reader, "Remove the chosen one"), budget="2e5")
    assert page.locator("#handover").count() == 0
    change(click(reader, "Back to the planner's plan"), budget="2e5")
    reader.wait()
    assert "plan" not in reader.view
    assert options.all_inner_texts() == planners


def test_what_does_not_fit_is_said_and_the_view_stays(reader: Reader) -> None:
    before = reader.text("#answer")
    reader.after(
        lambda: reader.page.get_by_label("budget, network evaluations").fill("12"), "refused"
    )
    assert reader.text("#problem").startswith("`budget` must be >= ")
    assert reader.text("#answer") == before
    assert reader.view["budget"] == "2e5"
    reader.after(lambda: reader.page.get_by_label("budget, network evaluations").fill("2e5"))
    assert reader.text("#problem") == ""


def test_the_plan_is_edited_by_keyboard_alone(reader: Reader) -> None:
    page = reader.page
    page.locator("#at").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("8")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "split"
    reader.after(lambda: page.keyboard.press("Enter"))
    assert "plan" in reader.view
    assert page.evaluate("document.activeElement.value") == "split"  # focus stays where it was


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("theory", ["law", "linear"])
def test_pages_are_accessible_on_phones_and_screens(
    browser: Any, address: str, scheme: str, theory: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    given = {"color_scheme": scheme, "viewport": {"width": 360, "height": 740}}
    plan = f"{address}?steps=16&budget=2e5&theory={theory}&student_steps=2"
    reader = Reader(browser, plan, **given)
    page = reader.page
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(OVERFLOW) <= 0
        found = axe.run(page).response["violations"]
        assert [(each["id"], each["impact"], len(each["nodes"])) for each in found] == []
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg text')].map(each => {"
            " const box = each.ownerSVGElement; return parseFloat(getComputedStyle(each).fontSize)"
            " * box.getBoundingClientRect().width / box.viewBox.baseVal.width; })"
        )
        assert min(sizes) >= 9.5  # CSS pixels
    assert reader.messages == []
    reader.context.close()


def test_without_a_script_the_form_still_answers(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    page.goto(f"{address}?steps=16&budget=2e5")
    page.get_by_label("teacher's steps T", exact=True).fill("8")
    page.get_by_role("button", name="Show").click()
    assert parse_qs(urlsplit(page.url).query)["steps"] == ["8"]
    assert page.locator("#shown svg").count() == 4
    context.close()
