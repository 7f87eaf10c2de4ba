"""`twin fit`: noise of the filters and parameters of the models from a run's readings, as a parameter file."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from cli import scoring
from cli.common import DEFAULT_RUN_DIR, ConfigOption, RunDirOption, config_path, out
from kernels.settings import kernel_settings
from kernels.stage import Settings
from kernels.twin_params import TwinParams
from replay.fit import file as fit_file
from replay.fit.fits import AssetsFit, AssetSpan, Fits, Sought, TagNoise, fit_asset, reactors
from replay.fit.interval import Interval
from replay.report.page import Table
from replay.results import finished as results
from replay.results.provenance import code_version, params_digest
from runtime.load import load_changed

COLUMNS = ("asset", "what", "before", "value", "95 % interval", "unit", "note")
WORDS = 2


def fit(
    run: Annotated[str, typer.Argument(help="A run's folder, its name (then from its topics), or live.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    params: scoring.ParamsOption = None,
    assets: scoring.AssetsOption = "",
    tags: scoring.TagsOption = "",
    start: scoring.FromOption = None,
    stop: scoring.ToOption = None,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Process and measurement noise per tag.")] = True,
    limits: Annotated[
        bool, typer.Option("--limits", help="Also drift_threshold per tag; the span must be normal operation.")
    ] = False,
    reactor: Annotated[bool, typer.Option("--reactor/--no-reactor", help="Parameters of the assets' models.")] = True,
    together: Annotated[bool, typer.Option(help="Assets of one model share their parameters: tells E better.")] = False,
    known_start: Annotated[
        bool, typer.Option("--known-start", help="Trust the conversion with which the run begins; else it is sought.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--out", help="Write what was found, for `--params` or plant.toml.")
    ] = None,
) -> None:
    """Noise by maximum likelihood over the innovations, reactor parameters by least squares over the model's free run.

    Give the configuration of the run. What the span does not tell is kept, and a note says so.
    """
    with scoring.clear_errors(), scoring.opened(run, config, run_dir, start, stop) as found:
        plant = scoring.plant_of(config, params)
        settings = kernel_settings(plant)
        sought = Sought(noise=noise, limits=limits, reactor=reactor, together=together, known_start=known_start)
        fits = fitted(found, settings, scoring.words(assets), scoring.words(tags), sought)
        for line in scoring.settings_note(found, params_digest(plant)):
            out.print(line, markup=False)
        scoring.show(table(fits))
        if all(t.fit is None for t in fits.noise) and all(f.fit is None for f in fits.reactors):
            raise results.ResultError("nothing could be fitted; the notes say why")
        if file is not None:
            file.write_text(fit_file.text(fits, provenance(found)), "utf-8")
            for line in overruled(fits, config, file):
                out.print(line, style="yellow", markup=False)
            out.print(f"written: {file}", markup=False)


def fitted(
    run: results.Run,
    settings: Settings,
    assets: tuple[str, ...],
    tags: tuple[str, ...],
    sought: Sought,
) -> Fits:
    """All fits of a run. Raises ResultError for assets and tags that it does not have."""
    fits, params, spans = Fits(), TwinParams(settings), list[AssetSpan]()
    seen, matched = set[str](), set[str]()
    for asset in run.by_asset(assets):
        seen |= set(asset.tags())
        chosen = [t for t in asset.tags() if not tags or any(fnmatchcase(t, pattern) for pattern in tags)]
        matched |= {pattern for pattern in tags if any(fnmatchcase(t, pattern) for t in chosen)}
        span = fit_asset(fits, asset, tags=chosen, settings=settings, params=params, sought=sought)
        if span is not None:
            spans.append(span)
    unknown = sorted(set(tags) - matched)
    if unknown:
        there = ", ".join(sorted(seen)[:20]) or "none"
        raise results.ResultError(f"run {run.name}: no readings of tag {unknown[0]!r}; there are {there}")
    fits.reactors += reactors(spans, sought)
    return fits


def provenance(run: results.Run) -> list[str]:
    """Lines for the file's head."""
    told = [f"{name} {run.provenance[name]}" for name in ("params", "source") if run.provenance.get(name)]
    return [f"Run {run.name}{': ' if told else ''}{', '.join(told)}", f"Version {code_version()}"]


def overruled(fits: Fits, config: Path | None, file: Path) -> list[str]:
    """Values that do not hold once the file is merged over the configuration: a later pattern there wins.

    Raises ConfigurationError where the two do not go together.
    """
    plant = load_changed(config_path(config), file)
    lines = []
    for (where, value), _ in fit_file.entries(fits):
        name, key = where[1], where[-1]
        if where[0] == "tags":
            tag = next(t for t in fits.noise if fit_file.exactly(f"{t.asset}/{t.tag}") == name)
            holds = getattr(plant.tag(tag.asset, tag.tag).estimation, key)
        else:
            asset = next(a for f in fits.reactors for a in f.assets if fit_file.exactly(a) == name)
            holds = plant.asset(asset).parameters.get(key)
        if holds != value:
            lines.append(f'"{name}".{key}: a later pattern of the configuration says {holds}; move this one behind it')
    return lines


def table(fits: Fits) -> Table:
    """What was found."""
    rows = [row for tag in fits.noise for row in _noise_rows(tag)]
    rows += [row for found in fits.reactors for row in _reactor_rows(found)]
    return Table(title="Fitted", columns=COLUMNS, rows=rows, words=WORDS)


def _noise_rows(tag: TagNoise) -> Iterator[tuple[str, ...]]:
    if tag.fit is None:
        yield tag.asset, tag.tag, "", "", "", "", tag.note
        return
    unit = f"({tag.unit})²" if tag.unit else ""
    nis = f"NIS {tag.fit.nis_before:.3g} → {tag.fit.nis_after:.3g}, {tag.fit.readings} readings"
    left_out = f"{tag.fit.left_out} beyond the gate" if tag.fit.left_out else ""
    counts = _joined(nis, left_out, f"{tag.fit.evaluations} evaluations", tag.note)
    per = f"{unit}/s³" if tag.white else unit
    yield _row(tag.asset, f"{tag.tag} process_noise", tag.before[0], tag.process, per, "")
    yield _row(tag.asset, f"{tag.tag} measurement_noise", tag.before[1], tag.measurement, unit, counts)
    if tag.drift is not None:
        seen = f"greatest of {tag.drift.excursions} excursions {tag.drift.greatest:.4g}"
        yield tag.asset, f"{tag.tag} drift_threshold", "", f"{tag.drift.threshold:.5g}", "–", "", seen


def _reactor_rows(found: AssetsFit) -> Iterator[tuple[str, ...]]:
    name = ", ".join(found.assets)
    if found.fit is None:
        if found.note:
            yield name, found.model, "", "", "", "", found.note
        return
    for parameter, interval in found.fit.parameters.items():
        before = found.before[parameter]
        yield _row(name, parameter, before, interval, found.units[parameter], "", parameter in found.fit.determined)
    low, high = found.fit.temperature_degC
    correlation = found.fit.correlation
    yield (
        name,
        found.model,
        "",
        "",
        "",
        "",
        _joined(
            f"residuals {found.fit.excess_before:.3g} → {found.fit.excess:.3g} times the noise",
            f"{found.fit.readings} readings at {low:.1f}…{high:.1f} degC",
            f"log A and E correlate by {correlation:.5f}" if isfinite(correlation) else "",
            *found.fit.starts,
            found.note,
            *found.fit.notes,
        ),
    )


def _row(
    asset: str, what: str, before: float, interval: Interval, unit: str, note: str, found: bool = True
) -> tuple[str, ...]:
    span = f"{interval.low:.4g}…{interval.high:.4g}" if found else "–"
    return asset, what, f"{before:.4g}", f"{interval.value:.5g}", span, unit, _joined(interval.note, note)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
