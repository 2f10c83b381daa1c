"""The studio in a browser without a window: edits, a cancel, a closed tab, a server that dies, two tabs."""

import socket
import time

import pytest

from tests import tiny
from tests.browser import CHROMIUM
from tests.clips import write_clip
from tests.service.test_serving import serving

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
    pytest.mark.slow,
]
SECONDS = 120_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    taught = {"families": ["global_style"], "looks": ["warm", "grayscale"]}
    tiny.pipeline(native_num_frames=9, default_num_inference_steps=2, trained_for=taught).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 24, sound=True)


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address():
    """Of a port that is free now, and stays the server's after a kill."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def opened(browser, address, **options):
    """The studio, and the list of what goes wrong in it."""
    page = browser.new_page(**options)
    page.set_default_timeout(SECONDS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#service:has-text('Model: tiny')")
    return page, problems


def until(page, condition):
    """Waits for a condition in JavaScript; the page's policy lets Playwright's own way evaluate no text."""
    deadline = time.monotonic() + SECONDS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(100)


def ask(page, clip, prompt="Make it black and white", **fields):
    page.set_input_files("#clip", str(clip))
    page.wait_for_selector("#trim:not([hidden])")
    page.fill("#prompt", prompt)
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#submit")


def port_of(address):
    return ("--port", address.rpartition(":")[2])


def test_a_whole_edit(model, clip, address, browser, tmp_path):
    with serving(tmp_path / "jobs", model, *port_of(address), "--model", "nano"):
        page, problems = opened(browser, address, viewport={"width": 1440, "height": 900})
        assert page.is_hidden("#trim")
        assert page.is_hidden("#stage")
        page.click("text=Edit >> nth=-1")
        assert page.is_hidden("#problem")  # the browser itself asks for the instruction first
        page.fill("#prompt", "x")
        page.click("#submit")
        assert "Choose a video" in page.inner_text("#problem")
        page.click("text=Make it a little brighter")
        assert page.input_value("#prompt") == "Make it a little brighter"
        assert "grayscale" in page.text_content("#scope-list")
        page.click("summary:has-text('Settings')")
        page.select_option("#model", "nano")
        assert "elephant" in page.text_content("#scope-list")
        page.select_option("#model", "tiny")
        assert "elephant" not in page.text_content("#scope-list")
        ask(page, clip, start="0.25", end="0.75", seeds="2", region="0%,0%,50%,100%", strength="0.7")
        page.wait_for_selector("li.job.running, li.job.done")
        top = page.evaluate("document.querySelector('li.job').getBoundingClientRect().top")
        assert -10 < top < 900, top
        page.wait_for_selector("li.job.done")
        about = page.inner_text("li.job .about")
        for words in ("clip.mp4", "tiny", "strength 0.7", "start 0.25", "end 0.75", "box 0%,0%,50%,100%", "2 results"):
            assert words in about
        assert "12 frames" in page.inner_text("li.job .state")
        assert page.locator("li.job .wipe").count() == 2
        until(page, "[...document.querySelectorAll('.wipe video')].every((one) => one.readyState > 1)")
        first = page.locator("li.job .wipe").first
        first.locator("button").click()
        until(page, "document.querySelector('.wipe video').currentTime > 0")
        assert first.locator("button").inner_text() == "Pause"
        first.locator("input").focus()
        page.keyboard.press("Home")
        assert page.evaluate("document.querySelector('.wipe .frames').style.getPropertyValue('--cut')") == "0%"
        with page.expect_download() as download:
            page.click("text=Download 2")
        assert download.value.suggested_filename == "clip_seed1.mp4"
        assert download.value.path().stat().st_size > 1000
        page.fill("#prompt", "")
        page.click("text=Use these settings")
        assert page.input_value("#prompt") == "Make it black and white"
        assert page.input_value("#strength") == "0.7"
        page.click("li.job >> text=Remove")
        page.wait_for_selector("#empty:not([hidden])")
        assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (375, "light"), (1440, "dark"), (1440, "light")])
def test_it_fits_and_can_be_used_by_everybody(width, scheme, model, clip, address, browser, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    with serving(tmp_path / "jobs", model, *port_of(address)):
        size = {"width": width, "height": 900}
        page, problems = opened(browser, address, viewport=size, color_scheme=scheme, bypass_csp=True)
        ask(page, clip)
        assert page.is_hidden("#model")  # there is one alone
        page.wait_for_selector("li.job.done")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page)
        serious = [one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert serious == [], found.generate_report()
        assert problems == []


def test_a_job_outlives_its_tab_and_is_cancelled_from_another(model, clip, address, browser, tmp_path):
    with serving(tmp_path / "jobs", model, *port_of(address)):
        page, _ = opened(browser, address)
        ask(page, clip, steps="1000")
        page.wait_for_selector("li.job.running .preview:not([hidden])")
        page.close()
        other, problems = opened(browser, address)
        third, _ = opened(browser, address)
        other.wait_for_selector("li.job.running")
        third.wait_for_selector("li.job.running")
        other.click("text=Cancel")
        for tab in (other, third):
            tab.wait_for_selector("li.job.cancelled")
        ask(third, clip)
        other.wait_for_selector("li.job.done")
        third.wait_for_selector("li.job.done")
        assert problems == []


def test_many_jobs_wait_and_the_page_still_answers(model, clip, address, browser, tmp_path):
    """More than a browser opens connections to one server; every job that is done shows two films."""
    with serving(tmp_path / "jobs", model, *port_of(address)) as (client, _):
        for seed in range(4):
            client.wait(client.edit(clip, "make it red", num_frames=5, seed=seed, seeds=3)["id"])
        for seed in range(12):
            client.edit(clip, "make it red", num_inference_steps=1000, seed=seed)
        page, problems = opened(browser, address)
        page.wait_for_selector("li.job.running")
        page.wait_for_selector("li.job[data-number='16']")
        client.edit(clip, "make it red", seed=99, num_inference_steps=1000)
        page.wait_for_selector("li.job[data-number='17']", timeout=30_000)
        page.click("li.job[data-number='16'] >> text=Cancel")
        page.wait_for_selector("li.job.cancelled[data-number='16']", timeout=30_000)
        page.evaluate("document.querySelector('li.job.done').scrollIntoView()")
        until(page, "[...document.querySelectorAll('li.job.done video')].some((one) => one.readyState > 1)")
        assert problems == []


def test_a_server_that_dies_and_comes_back_goes_on_with_the_same_page(model, clip, address, browser, tmp_path):
    with serving(tmp_path / "jobs", model, *port_of(address)) as (_, server):
        page, _ = opened(browser, address)
        ask(page, clip, steps="60")
        page.wait_for_selector("li.job.running")
        server.kill()
        server.wait()
        page.wait_for_selector("#service:has-text('does not answer')")
        page.click("#submit")
        page.wait_for_selector("#problem:has-text('The upload broke off')")
    with serving(tmp_path / "jobs", model, *port_of(address)):
        page.wait_for_selector("#service:has-text('Model: tiny')")
        page.wait_for_selector("li.job.done")
        assert page.locator("li.job").count() == 1


def test_the_token_in_the_address_opens_the_page(model, address, browser, tmp_path):
    with serving(tmp_path / "jobs", model, *port_of(address), "--token", "secret"):
        page = browser.new_page()
        assert page.goto(address).status == 401
        assert page.goto(f"{address}/?token=secret").status == 200
        page.wait_for_selector("#service:has-text('Model: tiny')", timeout=SECONDS)
