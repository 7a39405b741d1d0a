"""The rules of prose that a program can check: names, summary lines and commit subjects (docs/glossary.md)."""

import re
import subprocess

from benchmarks import structure

BASE = "75e3156"
"""Commits from here on follow the rule for subjects."""


def test_names_say_what_they_hold():
    assert structure.banned_names() == []


def test_summary_lines_open_with_a_verb_or_a_noun_phrase():
    assert structure.question_summaries() == []
    assert structure.article_summaries() == []


def test_entries_of_docstrings_are_phrases():
    assert structure.lower_entries() == []


def test_commit_subjects_are_short_and_hold_one_thought(root):
    """Nothing to check in a source distribution or a shallow clone, which have no history."""
    listed = subprocess.run(
        ["git", "log", "--no-merges", "--format=%s", f"{BASE}..HEAD"], cwd=root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    subjects = listed.stdout.splitlines() if listed.returncode == 0 else []
    assert [subject for subject in subjects if len(subject) > 72 or ";" in subject] == []


def test_the_glossary_lists_each_term_once(root):
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (root / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 40
    assert sorted(set(terms)) == sorted(terms)
