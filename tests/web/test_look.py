"""All pages have one head: the same colours, font and spacing, and a content policy that names their scripts."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from recede.evaluation.reports.page import PAGE as REPORT
from recede.evaluation.viewing.server import PAGE as VIEW
from recede.teleoperation.web import PAGE as RECORD
from recede.web.look import script_source, with_look

PAGES = {"report": REPORT, "view": VIEW, "record": RECORD}
STYLED = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*)")


def own_style(page: Path) -> str:
    return re.findall(r"<style>(.*?)</style>", page.read_text(), re.DOTALL)[0]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_head_of_all_pages_once(name):
    page = with_look(PAGES[name])
    assert page.startswith("<!doctype html>\n")
    for once in ("<head>", "</head>", "<meta charset", 'name="viewport"', "<title>", "--accent: #0b6e69"):
        assert page.count(once) == 1, once
    assert page.count("<style>") == page.count("</style>") == 2
    assert "Content-Security-Policy" not in page  # a header states it


@pytest.mark.parametrize("name", PAGES)
def test_a_page_writes_no_colour_twice(name):
    shared = set(STYLED.findall(with_look(PAGES[name]).partition("</style>")[0]))
    style = own_style(PAGES[name])
    defined = set(re.findall(r"--([a-z][a-z0-9]*):", style))
    assert not shared & defined
    of_elements = {"c", "score", "seed", "steps", "phase"}
    assert set(re.findall(r"var\(--([a-z][a-z0-9]*)\)", style)) <= shared | defined | of_elements


def test_a_page_in_a_file_states_its_policy_before_anything_is_loaded():
    page = with_look(REPORT, policy="default-src 'none'")
    head = page.partition("</head>")[0]
    assert head.index("default-src 'none'") < head.index("<link") < head.index("<style>")


@pytest.mark.parametrize("name", ["view", "record"])
def test_the_policy_names_the_scripts_of_the_page_alone(name):
    page = with_look(PAGES[name])
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert script_source(page) == f"script-src 'sha256-{digest}'"
    assert script_source(page.replace(script, script + " ")) != script_source(page)
    assert not re.search(r"<[a-z]+[^>]*\son[a-z]+=", page.replace(script, ""))  # no handler needs another permission
