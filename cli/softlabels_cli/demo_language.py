"""The demonstration of language: a small GPT teacher on the source of the standard library, and students from it."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

MAX_FILE_BYTES = 100_000
"""Larger files of the standard library are mostly tables."""

CORPUS_BYTES = 1_500_000
HELD_OUT_BYTES = 100_000

TEACHER = "gpt:layers=4,width=192"
STUDENT = "gpt:layers=2,width=64"
PACK = "128"
TRAIN = ["--batch-size", "16", "--lr", "3e-3"]
TEACHER_STEPS = "600"
STUDENT_STEPS = "300"

SETTING = """\
The setting: a teacher has learned the source of Python's standard library, with a tokenizer of its own. The team that
needs a small model has the teacher's labels, and the store holds the tokens, so nothing else is needed. Both students
have the same architecture and see the same number of tokens; one of them learns from the true next tokens alone, the
other from the soft labels too. All are measured on files that none of them has seen; students are the mean of the seeds
± standard deviation."""


def write_corpus(out: Path) -> None:
    """Write ``corpus.txt`` and ``held-out.txt``, the source of the standard library; files that exist are not changed.

    Args:
        out: Directory of the demonstration.
    """
    if (out / "corpus.txt").exists() and (out / "held-out.txt").exists():
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path for path in sorted(library.rglob("*.py"))
        if "site-packages" not in path.parts and path.stat().st_size <= MAX_FILE_BYTES
    ]  # fmt: skip
    random.Random(0).shuffle(files)  # noqa: S311  an order, not a secret
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    out.mkdir(parents=True, exist_ok=True)
    for name, size in (("held-out.txt", HELD_OUT_BYTES), ("corpus.txt", CORPUS_BYTES)):
        written = 0
        with (out / name).open("w", encoding="utf-8") as file:
            while written < size and (text := next(texts, None)) is not None:
                written += file.write(text)


def story(out: Path, seeds: int) -> list[tuple[str, list[str]]]:
    """Return each command of the demonstration with its purpose.

    Args:
        out: Directory of the demonstration.
        seeds: Students per setting.
    """
    corpus, labels, teacher = f"{out}/corpus.txt", f"{out}/labels", f"run:{out}/teacher"
    soft = [f"{out}/student-soft-{seed}" for seed in range(seeds)]
    hard = [f"{out}/student-hard-{seed}" for seed in range(seeds)]
    text = ["--pack", PACK]
    tokens = ["--tokenizer", f"{out}/teacher/tokenizer.json", *text]
    students = ["--steps", STUDENT_STEPS, *TRAIN]
    return [
        ("Train a tokenizer and a teacher on text.",
         ["train-teacher", corpus, "--model", TEACHER, "--tokenizer", "bpe:2048", *text, "--steps", TEACHER_STEPS,
          *TRAIN, "--out", f"{out}/teacher"]),
        ("Run it once over the text; a label is a few tokens and their probabilities.",
         ["generate", corpus, "--teacher", teacher, "--out", labels, *text, "--encoding", "threshold:0.05"]),
        ("What is in the store? The tokens too.", ["inspect", labels]),
        *(("Train a student from the store alone: no text, no teacher.",
           ["train-student", labels, "--student", STUDENT, *students, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(soft)),
        *(("The same student from the true next tokens alone.",
           ["train-teacher", corpus, "--model", STUDENT, *tokens, *students, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(hard)),
        ("What was gained?",
         ["compare", teacher, *(f"run:{run}" for run in soft), *(f"run:{run}" for run in hard), "--data",
          f"{out}/held-out.txt"]),
    ]  # fmt: skip
