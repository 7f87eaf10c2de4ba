"""Plots as SVG text to be put into a page: no file, no display, no font file, the same bytes for the same data.

May not know: scores, runs.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from replay.score.moments import shown
from replay.score.series import Series

I64 = NDArray[np.int64]

COLORS = {"value": "#9aa5b1", "estimate": "#0b6bcb", "reference": "#1f8f4e", "model": "#b4530a", "flag": "#d1242f"}
COLORS_OF_RUNS = ("#0b6bcb", "#b4530a")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and searched by the browser
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "path.simplify": True,
}


def series_plot(series: Series, name: str) -> str:
    """One tag: readings, estimate, reference, model, what was flagged, labelled windows; below, NIS. `name`: unique in
    the page, it begins all ids.
    """
    with _figure(name, 3.2, 2) as ((top, below), svg):
        hours, scale = _clock(series.time_ns, series.time_ns)
        top.plot(hours, series.value, lw=0.6, color=COLORS["value"], label="reading", zorder=1)
        top.plot(hours, series.reference, color=COLORS["reference"], label="reference", lw=0.9, zorder=3)
        top.plot(hours, series.estimate, color=COLORS["estimate"], label="estimate", zorder=2)
        if len(series.model):
            at, _ = _clock(series.model_time_ns, series.time_ns)
            top.plot(at, series.model, color=COLORS["model"], label="model", zorder=2)
        if series.flagged.any():
            bad = series.flagged
            top.plot(hours[bad], series.value[bad], "x", ms=3, color=COLORS["flag"], label="flagged", zorder=4)
        for window in series.windows:
            ends, _ = _clock(np.array([window.start_ns, window.end_ns], np.int64), series.time_ns)
            for axes in (top, below):
                axes.axvspan(*np.clip(ends, hours[0], hours[-1]), color=COLORS["flag"], alpha=0.1, lw=0)
        top.set_ylabel(series.unit or "value")
        top.legend(loc="lower left", bbox_to_anchor=(0.0, 0.97), ncols=5, fontsize=7)
        below.semilogy(hours, np.maximum(series.nis, 1e-3), lw=0.5, color=COLORS["estimate"])
        below.axhline(1.0, color=COLORS["reference"], lw=0.8)
        below.set_ylabel("NIS")
        below.set_xlabel(f"{scale} after {_date(series.time_ns)}")
    return svg[0]


def pair_plot(
    name: str, unit: str, lines: Mapping[str, tuple[I64, NDArray[np.float64]]], marks: I64 | None = None
) -> str:
    """The same quantity in two runs over each other, below it their difference at the times of the first; `lines`: name
    of the run → times and values; `marks`: times to point at.
    """
    time_ns, value = zip(*lines.values(), strict=True)
    with _figure(name, 2.8, 2) as ((top, below), svg):
        hours = [_clock(at, time_ns[0])[0] for at in time_ns]
        scale = _clock(time_ns[0], time_ns[0])[1]
        for at, values, label, color in zip(hours, value, lines, COLORS_OF_RUNS, strict=True):
            top.plot(at, values, color=color, label=label)
        if marks is not None and len(marks):
            for at in _clock(marks, time_ns[0])[0]:
                top.axvline(at, color=COLORS["flag"], lw=0.6, alpha=0.5)
        other = np.interp(hours[0], hours[1], value[1]) if len(hours[1]) else np.full(len(hours[0]), np.nan)
        below.plot(hours[0], other - np.asarray(value[0]), color=COLORS["flag"])
        top.set_ylabel(unit or "value")
        below.set_ylabel("difference")
        below.set_xlabel(f"{scale} after {_date(time_ns[0])}")
        top.legend(loc="lower left", bbox_to_anchor=(0.0, 0.97), ncols=2, fontsize=7)
    return svg[0]


@contextmanager
def _figure(name: str, height: float, rows: int) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw in; afterwards the list holds their SVG."""
    svg: list[str] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(9.0, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, 1, sharex=True, height_ratios=[3.0] + [1.0] * (rows - 1))
        yield axes, svg
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        svg.append(_embedded(out.getvalue(), name))


def _embedded(text: str, name: str) -> str:
    """Only the svg element; every id begins with `name`, so that plots of a page do not share any."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href=")#', rf"\g<1>#{name}-", text)
    return re.sub(r"url\(#", f"url(#{name}-", text)


def _clock(time_ns: I64, origin: I64) -> tuple[NDArray[np.float64], str]:
    """Times after the first of `origin`, in the unit that suits the span of `origin`, and that unit's name."""
    span_s = (int(origin[-1]) - int(origin[0])) / 1e9 if len(origin) else 0.0
    length, name = next(
        ((s, n) for s, n in ((86_400, "days"), (3_600, "hours"), (60, "minutes")) if span_s > 3 * s), (1, "s")
    )
    first = int(origin[0]) if len(origin) else 0
    return (time_ns - first) / (1e9 * length), name


def _date(origin: I64) -> str:
    return shown(int(origin[0])) + " UTC" if len(origin) else "–"
