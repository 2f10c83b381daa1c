"""The report's page in a real browser: videos play, tables sort by mouse and keyboard, nothing overflows."""

import dataclasses

import pytest

from sama_video.evaluation.report import ReportConfig, write_report

from ..browser import CHROMIUM, Browser
from ..clips import write_clip
from .made_up import judgment, make_items, without_scores, write_made_up_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
]

JUDGE = "gemini-2.5-flash-thinking"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of two runs beside the paper's systems, with sources, edits and targets in a browser-unfriendly form."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("source-0.mp4", "source-1.mp4", "target.mp4"):
        write_clip(folder / name, 24, height=90, width=161, pix_fmt="yuv444p")
    items = [
        dataclasses.replace(item, target=folder / "target.mp4")
        for item in make_items("reco_bench", 3, folder, sources=2)
    ]
    runs = []
    for shift, editor in enumerate(["mine", "an-editor-with-quite-a-long-name-and-settings"]):
        judged = [judgment("reco_bench", item, 9 - 2 * (index % 3) - shift, JUDGE) for index, item in enumerate(items)]
        judged[1] = without_scores(items[1], "missing", JUDGE)
        edits = {item.id: "videos/edit.mp4" for item in items if item is not items[1]}
        run = write_made_up_run(folder / editor, "reco_bench", editor, items, {JUDGE: judged}, edits=edits)
        (run / "videos").mkdir()
        write_clip(run / "videos" / "edit.mp4", 24, height=90, width=161, pix_fmt="yuv444p")
        runs.append(run)
    write_report(runs, folder / "out", ReportConfig(with_published=True, formats=("html",)))
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_overflows_and_wide_tables_scroll_in_their_box(browser, page, width, dark, tmp_path):
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert browser.run(f"{boxes}.every(box => box.getBoundingClientRect().right <= innerWidth)")
    if width == 375:
        assert browser.run(f"{boxes}.some(box => box.scrollWidth > box.clientWidth)")
    outside = "[...document.querySelectorAll('h1, h2, h3, p, figure, video, button.play')]"
    assert browser.run(f"{outside}.every(e => e.getBoundingClientRect().right <= innerWidth)")
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is dark
    browser.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")


def test_every_video_plays(browser, page):
    browser.open(page, 1440)
    videos = "[...document.querySelectorAll('video')]"
    assert browser.run(f"{videos}.length") >= 12
    browser.wait_for(f"{videos}.every(v => v.readyState >= 2 || v.error)")
    assert browser.run(f"{videos}.every(v => v.error === null && v.videoWidth === 162 && v.videoHeight === 90)")
    playing = "[...document.querySelector('article').querySelectorAll('video')]"
    browser.click("button.play")
    browser.wait_for(f"{playing}.length === 3 && {playing}.every(v => v.currentTime > 0.1)")
    assert browser.run("document.querySelector('button.play').textContent") == "Pause"
    browser.click("button.play")
    assert browser.run(f"{playing}.every(v => v.paused)")


COLUMN = "[...document.querySelector('tbody').rows].map(row => row.cells[1].dataset.sort)"
NAMES = "[...document.querySelector('tbody').rows].map(row => row.cells[0].dataset.sort)"


def test_tables_sort_by_mouse_and_keyboard(browser, page):
    browser.open(page, 1440)
    state = "[...document.querySelectorAll('table:first-of-type thead')][0].rows[0].cells[{}].ariaSort"
    before = browser.run(NAMES)
    browser.click("thead th:nth-child(2) button")
    column = [float(value) for value in browser.run(COLUMN) if value]
    assert column == sorted(column, reverse=True)
    assert browser.run(state.format(1)) == "descending"
    assert browser.run(COLUMN)[-1] == ""  # a system without a score in this task stays last
    browser.press("Enter", 13, "\r")  # the button has the focus
    column = [float(value) for value in browser.run(COLUMN) if value]
    assert column == sorted(column)
    assert browser.run(COLUMN)[-1] == ""
    assert browser.run(state.format(1)) == "ascending"
    browser.run("document.querySelector('thead button').focus()")
    browser.press(" ", 32, " ")
    assert browser.run(NAMES) == sorted(before, key=str.lower)
    assert browser.run(state.format(0)) == "ascending"
    assert browser.run(state.format(1)) == "none"
    assert sorted(browser.run(NAMES)) == sorted(before)


def test_tables_are_named_and_reachable(browser, page):
    browser.open(page, 375)
    assert browser.run("[...document.querySelectorAll('table')].every(t => t.caption.textContent.trim() !== '')")
    assert browser.run("[...document.querySelectorAll('thead th')].every(h => h.scope === 'col')")
    assert browser.run("[...document.querySelectorAll('tbody th')].every(h => h.scope === 'row')")
    assert browser.run("[...document.querySelectorAll('.scroll')].every(b => b.tabIndex === 0 && b.ariaLabel)")
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.ariaLabel)")
