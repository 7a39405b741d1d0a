"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

from softlabels_cli.output import format_seconds
from softlabels_cli.signals import raise_if_received

LINE_EVERY = 5.0
"""Seconds between lines without a terminal."""


class Progress:
    """Progress of long work on stderr; a context manager.

    Args:
        label: Name of the work.
        unit: Unit that is counted, for the rate (``rows`` gives rows/s).
        quiet: If True, show nothing.
    """

    def __init__(self, label: str, *, unit: str, quiet: bool = False) -> None:
        self.label = label
        self.unit = unit
        self.quiet = quiet
        self.total = 0
        self._bar: Any = None
        self._began = self._last_line = time.monotonic()
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int, **figures: float) -> None:
        """Show that ``done`` of ``total`` are done.

        Args:
            done: Units done.
            total: Units in all.
            figures: Figures to show beside the rate, such as loss and accuracy.

        Raises:
            KeyboardInterrupt: A signal arrived, and its exception was swallowed.
        """
        raise_if_received()
        if self.quiet:
            return
        if self.total == 0:
            self.total, self._first, self._began = total, done, time.monotonic()
        if sys.stderr.isatty():
            self._update_bar(done, figures)
        else:
            self._update_line(done, figures)

    def _update_bar(self, done: int, figures: dict[str, float]) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=self.total,
                initial=done,
                desc=self.label,
                unit=f" {self.unit}",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=0.1,
                leave=True,
            )
        bar = self._bar
        bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        bar.update(done - bar.n)

    def _update_line(self, done: int, figures: dict[str, float]) -> None:
        now = time.monotonic()
        if done < self.total and now - self._last_line < LINE_EVERY:
            return
        if self._first == self.total:
            return
        self._last_line = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        speed = f", {rate:,.0f} {self.unit}/s" if done > self._first else ""
        remaining = f", {format_seconds((self.total - done) / rate)} left" if rate > 0 and done < self.total else ""
        extra = "".join(f", {name} {value:.4g}" for name, value in figures.items())
        click.echo(
            f"{self.label}: {done:,} of {self.total:,} {self.unit} ({done / max(self.total, 1):.0%})"
            f"{speed}{remaining}{extra}",
            err=True,
        )
