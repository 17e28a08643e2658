"""The documents become a site without broken links that loads nothing from elsewhere, and is searched in a folder."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from recede.benchmarks.hands import browser_path

ROOT = Path(__file__).parents[1]
needs_mkdocs = pytest.mark.skipif(
    find_spec("material") is None,
    reason="needs the extra 'docs'",
)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        [*command, "--config-file", str(root / "docs/site/mkdocs.yml")],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser loads to show a page; `href` of a link is only followed by a click."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "srcset", "href"} if tag == "link" else {"src", "srcset", "poster", "data"}
        self.addresses += [value for name, value in attrs if name in names and value]


@needs_mkdocs
@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert {"index.html", "docs/start.html", "docs/commands.html", "docs/python.html"} <= {
        page.relative_to(site).as_posix() for page in pages
    }
    for page in pages:
        for address in Loaded(page).addresses:
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
            assert page.name == "404.html" or (page.parent / address.split("?")[0]).exists(), f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text()), style.name


@needs_mkdocs
@pytest.mark.slow
def test_broken_links_are_errors(tmp_path: Path) -> None:
    for folder in ("docs", "examples", "envs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for document in [*ROOT.glob("*.md"), ROOT / "CITATION.cff"]:
        shutil.copy(document, tmp_path)
    with (tmp_path / "docs/start.md").open("a") as page:
        page.write("\n[file](nowhere.md), [heading](choices.md#nowhere), [own heading](#missing), [root](/start.md)\n")
    (tmp_path / "docs/lost.md").write_text("# A page that no menu names\n")
    done = build(tmp_path, tmp_path / "built")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    for broken in ("'nowhere.md'", "'#nowhere'", "'#missing'", "'/start.md'", "docs/lost.md"):
        assert broken in output


@needs_mkdocs
@pytest.mark.slow
@pytest.mark.skipif(browser_path() is None, reason="needs a browser: apt-get install chromium")
def test_the_site_is_searched_without_a_server(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "docs/start.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("langevin")
        page.wait_for_selector(".md-search-result__link")
        links = [link.get_attribute("href") or "" for link in page.query_selector_all(".md-search-result__link")]
        browser.close()
    assert any("docs/choices.html" in link for link in links)
    assert {request.split(":")[0] for request in requests} <= {"file", "data", "blob"}


def test_the_page_of_names_is_the_generated_one() -> None:
    generator = runpy.run_path(str(ROOT / "docs/site/public_names.py"))
    command = "python docs/site/public_names.py > docs/python.md"
    assert (ROOT / "docs/python.md").read_text() == generator["page"](), f"run {command}"
