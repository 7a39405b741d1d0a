"""Measure the structure of the code: sizes, docstrings, and the files on the two data paths.

Prints the tables of docs/architecture.md. Sizes and docstrings come from the syntax trees; the files on a path come
from profiling one epoch of the loader and one run of ``generate``, over all threads.

    python benchmarks/structure.py          # a few seconds
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import torch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "softlabels"
CHECKED = ("softlabels", "cli", "benchmarks", "tests", "docs", "data")
"""Folders whose names and summary lines follow the rules."""
BANNED = frozenset({
    "asked", "at", "each", "found", "given", "kept", "left", "made", "mine", "part", "piece", "pieces", "some",
    "theirs", "told", "wanted", "whole",
})  # fmt: skip
"""Names that do not say what they hold."""
QUESTION = re.compile(r"(What|Which|Whether|Where|How|Who|Why)\b")
ARTICLE = re.compile(r"(A|An|The|These|Those|All|Its) ")
SECTION = re.compile(r"^(Args|Attributes|Example|Raises|Returns|Yields):$", re.MULTILINE)
LOWER_ENTRY = re.compile(r" {4}[\w*`.]+: [a-z]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    """Return the Python files of the checkout that git knows, below ``folders``."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *[f"{folder}/*.py" for folder in folders]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return path.read_bytes().count(b"\n")


def code_lines(path: Path) -> int:
    """Return the number of lines that hold code: without docstrings, comments and blank lines."""
    tree = ast.parse(path.read_text())
    documentation: set[int] = set()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                documentation.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    with path.open("rb") as file:
        tokens = [
            token for token in tokenize.tokenize(file.readline) if token.type not in (*ignored, tokenize.ENCODING)
        ]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - documentation)


def functions(path: Path) -> Iterator[Function]:
    """Yield the functions of a file, methods included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def public(path: Path) -> Iterator[Function | ast.ClassDef]:
    """Yield the public functions, classes and methods of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def bound_names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and name of everything that a file binds: variables and arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def banned_names() -> list[str]:
    """Return where the code binds a name that does not say what it holds."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(*CHECKED)
        for line, name in bound_names(path)
        if name in BANNED
    ]


def question_summaries() -> list[str]:
    """Return where a docstring opens with a question word in place of a verb or a noun phrase."""
    return [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {(ast.get_docstring(node) or '').splitlines()[0]}"
        for path in sources(*CHECKED)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | Function) and QUESTION.match(ast.get_docstring(node) or "")
    ]


def article_summaries() -> list[str]:
    """Return where the docstring of a function opens with an article in place of a verb."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {(ast.get_docstring(node) or '').splitlines()[0]}"
        for path in sources("softlabels", "cli")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
        and not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        and not node.name.startswith("test_")
        and ARTICLE.match(ast.get_docstring(node) or "")
    ]


def lower_entries() -> list[str]:
    """Return where an entry of Args, Attributes, Returns or Raises does not open with a capital letter."""
    entries = []
    for path in sources("softlabels", "cli"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | Function):
                sections = SECTION.split(ast.get_docstring(node) or "")
                entries += [
                    f"{path.relative_to(ROOT)}:{node.lineno}: {line.strip()}"
                    for name, text in zip(sections[1::2], sections[2::2], strict=True)
                    for line in text.splitlines()
                    if name != "Example" and LOWER_ENTRY.match(line)
                ]
    return entries


def sizes() -> dict[str, Any]:
    """Return the figures that the syntax trees give."""
    code, tests = sources("softlabels", "cli"), sources("tests")
    modules = [lines(path) for path in code]
    bodies = sorted((node.end_lineno or 0) - node.lineno + 1 for path in code for node in functions(path))
    documented = [ast.get_docstring(node) for path in code for node in public(path)]
    raising = [
        node for path in code for node in public(path)
        if isinstance(node, Function) and any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]  # fmt: skip
    names = sum(1 for path in sources(*CHECKED) for _ in bound_names(path))
    return {
        "modules": len(modules),
        "module lines, median": statistics.median(modules),
        "module lines, maximum": max(modules),
        "functions": len(bodies),
        "function lines, median": statistics.median(bodies),
        "function lines, 95 %": bodies[int(len(bodies) * 0.95)],
        "public docstrings": sum(text is not None for text in documented) / len(documented),
        "public functions that raise and list Raises":
            sum("Raises:" in (ast.get_docstring(node) or "") for node in raising) / len(raising),
        "public docstrings with an example": sum(">>>" in (text or "") for text in documented),
        "lines of tests per line of source": sum(map(lines, tests)) / sum(modules),
        "lines of code of tests per line of code of source":
            sum(map(code_lines, tests)) / sum(map(code_lines, code)),
        "lines of source": sum(modules),
        "lines of code of source": sum(map(code_lines, code)),
        "bound names that HOUSE bans": len(banned_names()) / names,
        "summary lines with a question word": len(question_summaries()),
    }  # fmt: skip


class FilesRun:
    """Collects the files of the package in which a function runs.

    Args:
        everywhere: Whether to profile the calling thread and threads that read inputs, beside the other new threads.

    Attributes:
        files: Paths below the package, in the order of their first call.
        functions: Number of functions of the package that ran.
        depth: Greatest number of them in one call stack, at the first call of each.
    """

    def __init__(self, *, everywhere: bool) -> None:
        self.files: dict[str, None] = {}
        self.functions = 0
        self.depth = 0
        self._everywhere = everywhere
        self._codes: set[CodeType] = set()

    def __enter__(self) -> Self:
        threading.setprofile(self._profile)
        if self._everywhere:
            sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or code in self._codes:
            return
        if not self._everywhere and threading.current_thread().name.startswith("softlabels-inputs"):
            return
        self._codes.add(code)
        path = Path(code.co_filename)
        if code.co_name != "<module>" and path.is_relative_to(PACKAGE):
            self.files.setdefault(str(path.relative_to(PACKAGE)))
            self.functions += 1
            self.depth = max(self.depth, _depth(frame))


def _depth(frame: FrameType | None) -> int:
    """Return the number of functions of the package in a call stack."""
    depth = 0
    while frame is not None:
        depth += Path(frame.f_code.co_filename).is_relative_to(PACKAGE)
        frame = frame.f_back
    return depth


def paths() -> dict[str, FilesRun]:
    """Return what runs on the path of a row from disk to batch, and of logits from the teacher to the record."""
    import softlabels as sl

    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels"
        with FilesRun(everywhere=False) as writing:
            sl.generate(
                "digits", teacher=lambda inputs: teacher(inputs.float()), out=out, encoding="topk:4", gate=False
            )
        loader = sl.loader(sl.open(out), batch_size=256, seed=0)
        with FilesRun(everywhere=True) as reading:
            for _ in loader:
                pass
    return {"a row, from disk to batch": reading, "logits, from teacher to record": writing}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--files", action="store_true", help="list the files on each path")
    options = parser.parse_args()
    figures, passed = sizes(), paths()
    for name, value in figures.items():
        print(f"| {name} | {value:.2%} |" if isinstance(value, float) and value < 1 else f"| {name} | {value:,.4g} |")
    for name, run in passed.items():
        print(f"| files, functions, deepest stack for {name} | {len(run.files)}, {run.functions}, {run.depth} |")
        for file in run.files if options.files else ():
            print(f"    {file}")
    if options.json:
        options.json.write_text(
            json.dumps({"sizes": figures, "paths": {name: list(run.files) for name, run in passed.items()}}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
