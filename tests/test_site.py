"""The documents as a site: it builds strictly, its links lead somewhere, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """What a page links to, what it loads when it is opened, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = set(), set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        elif tag == "link":
            self.loaded.add(values["href"])
        elif values.get("src"):
            self.loaded.add(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def target(site, page, address):
    """The file that an address on a page leads to."""
    path = unquote(urlsplit(address).path)
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    found = page if not path else found.resolve()
    return found / "index.html" if found.is_dir() else found


@pytest.mark.slow
def test_every_document_is_a_page(site):
    for document in (ROOT / "docs").rglob("*.md"):
        name = document.relative_to(ROOT / "docs").with_suffix("")
        assert (site / name / "index.html").exists() or name == Path("index"), document
    assert (site / "index.html").exists()


@pytest.mark.slow
def test_links_lead_to_pages_and_anchors(site, pages):
    broken = set()
    for path, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            found, anchor = target(site, path, link), urlsplit(link).fragment
            if not found.is_file() or (found in pages and unquote(anchor) not in pages[found].anchors):
                broken.add((str(path.relative_to(site)), link))
    assert len(pages) > 30
    assert broken == set()


@pytest.mark.slow
def test_pages_load_nothing_from_other_machines(site, pages):
    """By what pages and style sheets name; what scripts might ask for while they run is not looked at."""
    for path, page in pages.items():
        for address in page.loaded:
            assert not urlsplit(address).netloc, (path, address)
            assert address.startswith("data:") or target(site, path, address).is_file(), (path, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\s\"']*(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
@pytest.mark.parametrize("name", ["load_pipeline", "edit_video", "EditSettings", "SamaPipeline.__call__"])
def test_the_reference_has_what_the_package_offers(pages, name):
    reference = next(page for path, page in pages.items() if path.parent.name == "edit_api")
    assert any(anchor.startswith("sama_video.") and anchor.endswith(name) for anchor in reference.anchors)


@pytest.mark.slow
def test_the_reference_has_every_command(site):
    words = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    for command in ("edit", "push", "studio", "train plot", "data preview", "eval exact"):
        assert f">sama {command}<" in words
    assert "--num-inference-steps" in words
