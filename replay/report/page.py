"""A report as one self-contained HTML page: tables, plots as inline SVG, provenance. Nothing is fetched from anywhere.

May not know: what the figures mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text: the first `words` columns stand left. Screen and page show the same one."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    note: str = ""


class Plot(NamedTuple):
    """A plot: its heading, and an svg element."""

    title: str
    svg: str


def page(
    title: str, lines: Sequence[str], tables: Sequence[Table], plots: Sequence[Plot], provenance: Mapping[str, Any]
) -> str:
    """The page. Everything but the plots is escaped: names of assets and tags come from the field."""
    environment = Environment(
        loader=PackageLoader("replay.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        lines=lines,
        tables=tables,
        plots=plots,
        provenance={name: json.dumps(said, indent=1, ensure_ascii=False) for name, said in provenance.items()},
    )
