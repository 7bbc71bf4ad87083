"""The command line ``dcgan``: the same stages with no server, and a look at what they left behind."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dcgan_core.artifacts import FLAG, LATEST_REPORT, Manifest, all_manifests, find, read_manifest, remove
from dcgan_core.collect import superseded, unfinished
from dcgan_core.errors import ConfigError, DcganError, MissingArtifact, StorageUnusable, TrainingStopped
from dcgan_core.place import Place, load_place
from dcgan_core.progress import Progress as Report
from dcgan_core.stage import FLOWS, Artifact, Backend, Stage, run
from dcgan_core.storage import Store, sha256_of_file
from dcgan_core.terminal import progress_on

if TYPE_CHECKING:  # the stages and the libraries they need are imported by the commands that need them
    from dcgan_core.dedup.scoring import Row
    from dcgan_core.pipeline import Pipeline

app = typer.Typer(
    help="From photos of the open web to a trained DCGAN, and what it learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

PresetOption = Annotated[
    str,
    typer.Option("--preset", "-p", help="A shipped preset (dcgan list presets) or a TOML file of your own."),
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", help="KEY=VALUE, for example -o train.steps=200 (dcgan list keys)."),
]
ModelArgument = Annotated[
    str,
    typer.Argument(help="An artifact (train, train/3f9a...), a folder, or a file of weights."),
]
EmaOption = Annotated[
    bool | None,
    typer.Option(
        "--ema/--plain",
        help="The moving average of G, or G as it was trained. Default: the average where there is one.",
        show_default=False,
    ),
]


def main() -> None:
    """Entry point: errors raised on purpose are a sentence and exit code 1 (2 for a wrong configuration)."""
    try:
        app()
    except DcganError as error:
        err.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


@app.command("run")
def run_command(
    stage: Annotated[str, typer.Argument(help=f"{', '.join(FLOWS)} or all.")] = "all",
    preset: PresetOption = "faces64",
    override: OverrideOption = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what is cached, what would run, and why.")
    ] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Do the stage anew, whatever is there.")] = False,
) -> None:
    """Run one stage, or all of them: only what is not there yet."""
    from dcgan_core.config import parse_override
    from dcgan_core.pipeline import load_pipeline

    place = load_place()
    overrides = dict(parse_override(text) for text in override or [])
    store = place.store()
    pipeline = load_pipeline(preset, overrides, upto=stage, gpus=place.gpus, store=store)
    stages = pipeline.of(stage)
    if plan:
        words = shlex.join(["--preset", preset, *(word for text in override or [] for word in ("-o", text))])
        _say_plan(stages, pipeline, store, words, refresh=refresh)
        return
    try:
        with _backend(place) as backend:
            for each in stages:
                artifact = _run_shown(each, store, backend, refresh=refresh, place=place)
                _say(each, artifact, store)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on: finished parts are kept")
        raise typer.Exit(130) from None
    except TrainingStopped as stopped:
        err.print(str(stopped), highlight=False, soft_wrap=True)
        raise typer.Exit(128 + stopped.signal_number) from None
    if stages[-1].flow == "report":
        out.print(f"\n[bold]Report:[/] {store.uri(LATEST_REPORT)}", soft_wrap=True)
    elif stages[-1].artifact == "quality":
        scores, quality = stages[-2:]
        out.print(_scores(store, scores))
        if (figures := _quality(store, quality)) is not None:
            out.print(figures)
    elif stages[-1].artifact == "gallery":
        page = store.uri(stages[-1].address.part_path("index.html"))
        out.print(f"\n[bold]Near duplicates to look at:[/] {page}", soft_wrap=True)


@app.command("serve")
def serve_command(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 4201,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0: reachable from other machines.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Another name under which browsers may ask; '*': any."),
    ] = None,
) -> None:
    """Serve the reports and galleries under DCGAN_ROOT to browsers, read-only, until Ctrl-C."""
    from dcgan_core.serve import serve

    place = load_place()
    store = place.store()

    def started(url: str) -> None:
        out.print(f"Pages of {store.root}: {url} (Ctrl-C ends)", soft_wrap=True, highlight=False)

    with suppress(KeyboardInterrupt):
        serve(store, host, port, [*(allow_host or ()), *place.report_host], started)


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="presets, stages, artifacts or keys.")] = "artifacts",
) -> None:
    """List presets, stages, configuration keys, or the artifacts under DCGAN_ROOT."""
    if what == "presets":
        from dcgan_core.config import preset_names

        for name in preset_names():
            out.print(f"[bold]{name}[/]  {_preset_in_words(name)}")
    elif what == "stages":
        for stage in FLOWS:
            out.print(stage)
    elif what == "keys":
        from dcgan_core.config import config_keys, describe

        table = _table("key", "meaning")
        for key in config_keys():
            table.add_row(key, describe(key))
        out.print(table)
    elif what == "artifacts":
        out.print(_artifacts(load_place().store()))
    else:
        raise typer.BadParameter(f"{what!r}: choose presets, stages, artifacts or keys")


@app.command()
def show(
    artifact: Annotated[str, typer.Argument(help="KIND, or KIND/FINGERPRINT (a beginning will do).")],
) -> None:
    """Show an artifact's manifest: counts, metrics, configuration, inputs, provenance."""
    store = load_place().store()
    manifest = find(store, artifact)
    out.print(f"[bold]{manifest.address}[/]  {store.uri(manifest.address.path)}", soft_wrap=True)
    shown = manifest.model_dump(mode="json", exclude={"parts"})
    shown["files"] = {"count": len(manifest.files), "bytes": manifest.bytes, "content": manifest.content}
    out.print_json(json.dumps(shown))


@app.command()
def verify(
    artifact: Annotated[str, typer.Argument(help="KIND, KIND/FINGERPRINT, or all.")] = "all",
    mend: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards anew from the crops they were made of.")
    ] = False,
) -> None:
    """Check every file against its manifest: present, same bytes, same rows; of shards every image as well.

    Exit code 1 where damage is left."""
    store = load_place().store()
    chosen = all_manifests(store) if artifact == "all" else [find(store, artifact)]
    damaged = 0
    for manifest in chosen:
        wrong = _damage(store, manifest)
        for problem in wrong:
            err.print(f"[red]damaged[/] {problem}", soft_wrap=True)
        mended = _repaired(store, manifest, wrong) if mend and manifest.artifact == "shards" else 0
        damaged += len(wrong) - mended
        if not wrong:
            out.print(
                f"[green]sound[/]   {manifest.address}  {len(manifest.files)} files, {_size(manifest.bytes)}"
            )
    for address in unfinished(store) if artifact == "all" else []:
        if store.exists(f"{address.path}/manifest.json"):
            err.print(
                f"[red]damaged[/] {store.uri(address.path)}/manifest.json cannot be read", soft_wrap=True
            )
            damaged += 1
    if damaged:
        raise typer.Exit(1)


def _damage(store: Store, manifest: Manifest) -> list[Any]:
    """What is wrong with an artifact, in words; with shards, as ``Damage``."""
    from dcgan_core.shard.check import damage, shard_files
    from dcgan_core.verify import problems

    with _bar(f"verify {manifest.address}", "files") as report:
        wrong: list[Any] = []
        if manifest.artifact == "shards":
            count = len(shard_files(manifest))
            for number in range(count):
                wrong += damage(store, manifest, number)
                report(number + 1, count, "")
            return wrong
        for done, (_, problem) in enumerate(problems(store, manifest), 1):
            report(done, len(manifest.files), "")
            wrong += [problem] if problem else []
        return wrong


def _repaired(store: Store, manifest: Manifest, wrong: list[Any]) -> int:
    """Make damaged shards anew; how much of what was wrong is mended."""
    from dcgan_core.shard.check import repair, shard_files

    for number in sorted({each.shard for each in wrong}):
        repair(store, manifest, number)
        tar, index = shard_files(manifest)[number]
        out.print(f"[green]repaired[/] {manifest.address}  {tar.name}, {index.name}")
    return len(wrong)


@app.command("rm")
def rm_command(
    artifact: Annotated[str, typer.Argument(help="KIND/FINGERPRINT (a beginning will do).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one artifact."""
    store = load_place().store()
    manifest = find(store, artifact)
    if yes or typer.confirm(f"Delete {manifest.address} ({_size(manifest.bytes)})?"):
        remove(store, manifest.address)
        out.print(f"deleted {manifest.address}")


@app.command()
def gc(
    keep: Annotated[int, typer.Option("--keep", min=0, help="Artifacts of each kind to keep, the newest.")],
    cut_off: Annotated[
        bool, typer.Option("--unfinished", help="Also delete what was never finished.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete superseded artifacts, but none that a kept one was made from. Not while a run is going on."""
    store = load_place().store()
    gone = superseded(all_manifests(store), keep)
    leftovers = unfinished(store) if cut_off else []
    for manifest in gone:
        out.print(f"{manifest.address}  {_size(manifest.bytes)}  {_age(manifest)} old")
    for address in leftovers:
        out.print(f"{address}  unfinished")
    freed = sum(manifest.bytes for manifest in gone)
    if (gone or leftovers) and not (yes or typer.confirm(f"Delete these ({_size(freed)})?")):
        return
    for manifest in gone:
        remove(store, manifest.address)
    for address in leftovers:
        remove(store, address)
    freed += store.sweep()
    out.print(f"freed {_size(freed)}")


@app.command("forget")
def forget_command(
    url: Annotated[list[str] | None, typer.Option("--url", help="A photo's address.")] = None,
    page_url: Annotated[
        list[str] | None, typer.Option("--page-url", help="The page that shows photos.")
    ] = None,
    sha256: Annotated[list[str] | None, typer.Option("--sha256", help="Hash of a photo's bytes.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="A copy of the photo, byte for byte; only hashed.")
    ] = None,
    artist: Annotated[list[str] | None, typer.Option("--artist", help="All photos by an author.")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="All photos found for a name.")] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Also delete models trained on them, instead of flagging these.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take photos down: exclude them from now on, and delete what holds them. Not while a run is going on."""
    from dcgan_core.exclusions import Exclusion
    from dcgan_core.forget import forget

    asked = [
        Exclusion(kind, value)
        for kind, values in {
            "url": url,
            "page_url": page_url,
            "sha256": [*(sha256 or []), *(_hash_of(path) for path in file or [])],
            "artist": artist,
            "name": name,
        }.items()
        for value in values or []
    ]
    if not asked:
        raise ConfigError("say what to forget: --url, --page-url, --sha256, --file, --artist or --name")
    store = load_place().store()
    question = f"Forget {len(asked)} under {store.root}, and delete what was made from them?"
    if not (yes or typer.confirm(question)):
        return
    with _bar("forget", "steps") as report:
        done = forget(store, asked, models=models, progress=report)
    out.print(f"{len(done.photos)} photos found; excluded from now on: {len(asked)} by what was given")
    for address in done.cleaned:
        out.print(f"[green]cleaned[/]  {address}")
    for address, size in done.deleted:
        out.print(f"[red]deleted[/]  {address}  {_size(size) if size else 'unfinished'}")
    for address, count in done.flagged:
        out.print(f"[yellow]flagged[/]  {address}  trained on {count} of them (--models deletes it)")
    if done.deleted:
        out.print("the next run makes what was deleted again, without them")


@app.command()
def results(
    folder: Annotated[Path, typer.Argument(help="Where records of scores are kept.")] = Path("docs/results"),
    to: Annotated[Path, typer.Option("--to", help="The page to write.")] = Path("docs/results.md"),
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="First keep the scores of this configuration.")
    ] = None,
    override: OverrideOption = None,
    note: Annotated[str, typer.Option("--note", help="What a reader should know of this run.")] = "",
) -> None:
    """Scores beside the paper's: keep those of a run, and write the page of all that were kept."""
    from dcgan_core.config import parse_override
    from dcgan_core.evaluate.records import keep, page_of, records_of
    from dcgan_core.pipeline import load_pipeline

    if override and preset is None:
        raise ConfigError("-o says what was run, so it needs --preset too")
    if preset is not None:
        overrides = dict(parse_override(text) for text in override or [])
        store = load_place().store()
        pipeline = load_pipeline(preset, overrides, upto="evaluate", store=store)
        _, judged, measured = pipeline.of("evaluate")
        scores, quality = (read_manifest(store, stage.address) for stage in (judged, measured))
        if scores is None:
            raise MissingArtifact("results", "scores", judged.address.fingerprint, "evaluate", preset)
        train = pipeline.of("train")[-1]
        trained = read_manifest(store, train.address)
        if trained is None:
            raise MissingArtifact("results", "train", train.address.fingerprint, "train", preset)
        words = "".join(f" -o {shlex.quote(text)}" for text in override or [])
        command = f"dcgan run evaluate --preset {preset}{words}"
        keep(folder, records_of(store, scores, quality, trained, pipeline.config, command, note))
    if not any(folder.glob("*.json")):
        raise ConfigError(f"{folder} holds no records; give --preset to keep those of a run")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(page_of(folder), encoding="utf-8")
    out.print(f"{to}: {len(list(folder.glob('*.json')))} records of {folder}", soft_wrap=True)


@app.command()
def attribution(
    artifact: Annotated[str, typer.Argument(help="shards, crops or photos; or KIND/FINGERPRINT.")] = "shards",
    to: Annotated[Path, typer.Option("--to", help="The csv file to write.")] = Path("attribution.csv"),
    names: Annotated[
        bool, typer.Option("--names", help="Also the names of people that photos were searched for.")
    ] = False,
) -> None:
    """Export whose photos a data set kept: address, author, licence of each."""
    from dcgan_core.attribution import write_attribution

    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("w", encoding="utf-8", newline="") as table:
        count = write_attribution(load_place().store(), artifact, table, names=names)
    out.print(f"{count} photos in {to}")


@app.command()
def sample(
    model: ModelArgument,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of z.")] = 0,
    each: Annotated[
        bool, typer.Option("--each/--grid", help="One file an image, or all on one sheet (the default).")
    ] = False,
    ema: EmaOption = None,
    device: Annotated[
        str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:1.")
    ] = "auto",
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Images drawn at once; no image depends on it, but for rounding."
        ),
    ] = 256,
    label: Annotated[
        int | None,
        typer.Option("--label", min=0, help="The class to draw, of nets with classes; default: in turn."),
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", min=1, help="Images in a row of the grid; default: a square.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="PNG file, or directory with --each. Default: samples.")
    ] = None,
) -> None:
    """Draw images from a trained model. Image number i follows from the seed and i, however many are drawn.

    MODEL is an artifact (train: the latest, or train/3f9a), a folder (an artifact's, an exported one's, or a
    checkpoint's: .../checkpoints/step-00001000) or a file of generator's weights (.../ema.safetensors).
    """
    from dcgan_core.models.opening import open_model
    from dcgan_core.models.sampling import (
        IN_WORDS,
        chosen_device,
        chosen_weights,
        drawn_in_batches,
        write_each,
        write_sheet,
    )

    if each and columns:
        raise ConfigError("--columns is of a grid; leave it out, or leave out --each")
    place = load_place()
    opened = open_model(model, place.store())
    spec = opened.model.spec
    weights, device = chosen_weights(opened.model, ema), chosen_device(device, place.gpus)
    batches = drawn_in_batches(
        opened.model, n, seed=seed, weights=weights, device=device, batch_size=batch_size, label=label
    )
    to = to or Path("samples" if each else "samples.png")
    with _writing(to), _bar("sample", "images") as report:
        if each:
            to = to.with_suffix("") if to.suffix == ".png" else to
            write_each(batches, to, n, f"seed{seed}-", report)
        else:
            write_sheet(batches, to, n, columns, report)
    out.print(f"{n} images in {to}", soft_wrap=True)
    shown = opened.manifest.metrics.get(FLAG) if opened.manifest else None
    words = IN_WORDS[weights] if opened.model.judge else "the file's own weights"
    drawn_from = f"{escape(opened.name)} ({spec.name}, {spec.size} px), {words}, seed {seed}, {device}"
    out.print(f"[dim]drawn from[/] {drawn_from}", soft_wrap=True, highlight=False)
    if shown:
        err.print(f"[yellow]note[/] it was trained on {shown} photos forgotten since", soft_wrap=True)


@contextmanager
def _writing(to: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        advice = "Give another place with --to, or free space"
        raise StorageUnusable(str(error.filename or to), error.strerror or str(error), advice) from error


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[Path, typer.Option("--to", help="A directory that is new or empty.")],
    kind: Annotated[
        str, typer.Option("--format", help="onnx, or huggingface (weights, configuration, model card).")
    ] = "onnx",
    ema: EmaOption = None,
    licence: Annotated[
        str,
        typer.Option("--license", help="Licence of the weights on the model card, as Hugging Face names it."),
    ] = "other",
) -> None:
    """Write a trained model for other programs, after checking that it draws the same there."""
    from dcgan_core.models.opening import open_model
    from dcgan_core.models.sampling import IN_WORDS, chosen_weights

    if kind not in ("onnx", "huggingface"):
        raise ConfigError(f"--format {kind}: choose onnx or huggingface")
    opened = open_model(model, load_place().store())
    weights = chosen_weights(opened.model, ema)
    with _writing(to):
        if kind == "onnx":
            from dcgan_core.models.export import export_onnx

            done = export_onnx(opened.model, to, weights)
        else:
            from dcgan_core.models.huggingface import export_huggingface

            done = export_huggingface(opened, to, weights, licence)
    words = IN_WORDS[weights] if opened.model.judge else "the file's own weights"
    out.print(f"[dim]exported[/] {escape(opened.name)}, {words}", soft_wrap=True, highlight=False)
    for name in sorted(path.name for path in to.iterdir()):
        size = _size((to / name).stat().st_size)
        out.print(f"  {to / name}  [dim]{size}[/]", soft_wrap=True, highlight=False)
    for name, difference in done.items():
        found = f"differs by {difference:.1e} at most" if difference else "no difference"
        out.print(f"[green]checked[/]  {name} against torch: {found}", highlight=False)


@app.command("dedup-eval")
def dedup_eval(
    pairs: Annotated[
        Path | None,
        typer.Argument(
            help="csv or parquet with columns a, b (keys of crops) and duplicate (true, false). Without it, "
            "near duplicates are made of your own crops."
        ),
    ] = None,
    preset: PresetOption = "faces64",
    override: OverrideOption = None,
    precision: Annotated[
        float, typer.Option("--precision", min=0.0, max=1.0, help="The precision a radius is suggested for.")
    ] = 0.99,
    sources: Annotated[
        int, typer.Option("--sources", min=1, help="Crops that near duplicates are made of.")
    ] = 500,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="A mirrored crop is a duplicate; else, finding it is wrong.")
    ] = False,
    max_radius: Annotated[
        int, typer.Option("--max-radius", min=0, max=64, help="Last row of the table.")
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice and of the changes.")] = 0,
) -> None:
    """Measure how well a finished `dedup` tells near duplicates, by radius, and suggest a radius."""
    from dcgan_core.config import parse_override
    from dcgan_core.dedup.evaluation import evaluate_pairs, evaluate_variants
    from dcgan_core.dedup.scoring import suggest
    from dcgan_core.dedup.stage import Codes
    from dcgan_core.pipeline import load_pipeline

    overrides = dict(parse_override(text) for text in override or [])
    store = load_place().store()
    pipeline = load_pipeline(preset, overrides, upto="dedup", store=store)
    stages = {stage.artifact: stage for stage in pipeline.stages}
    codes, dedup = stages["codes"], stages["dedup"]
    assert isinstance(codes, Codes)
    if pairs is not None:
        manifest = dedup.input_manifest(store, "codes")
        found = evaluate_pairs(
            store, manifest, pairs, max_radius, codes.config.verify, codes.config.verify_step
        )
        out.print(f"{found.pairs} labelled duplicates among {found.pictures} crops")
    else:
        with _bar("dedup-eval", "parts") as report:
            found = evaluate_variants(
                store,
                codes,
                sources=sources,
                limit=max_radius,
                mirrored=mirrored,
                seed=seed,
                progress=report,
            )
        out.print(
            f"{found.pairs} generated duplicates, each compared with {found.pictures} crops "
            f"({found.unclear} pairs of crops that look the same already are not judged)"
        )
    sure, likely = suggest(found.rows, precision), suggest(found.rows, precision, sure=False)
    out.print(_radii(found.rows, sure))
    if found.recall_of_kind:
        at = likely if sure is None else sure
        out.print(_kinds(found.recall_of_kind, 0 if at is None else at))
    if sure is not None:
        out.print(f"suggested for a precision of {precision:g}: [bold]-o dedup.radius={sure}[/]")
    elif likely is not None:
        out.print(
            f"radius {likely} looks right for a precision of {precision:g}; the pairs are too few to be sure"
        )
    else:
        out.print(f"no radius reaches a precision of {precision:g}")
    out.print(
        "[dim]In brackets: 95 % confidence. Precision falls as a set grows: measure again when it has.[/]"
    )


def _radii(rows: list[Row], suggested: int | None) -> Table:
    table = _table("radius", "precision %", "recall %", "F1 %", "false", "missed")
    for row in rows:
        cells = [str(row.radius)]
        for share in (row.precision, row.recall, row.f1):
            cells.append(f"{100 * share.value:5.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})")
        style = "bold" if row.radius == suggested else ""
        table.add_row(*cells, str(row.false_positives), str(row.missed), style=style)
    return table


def _kinds(recall: dict[str, list[float]], radius: int) -> Table:
    table = _table("change", f"found at {radius}")
    for kind, by_radius in recall.items():
        table.add_row(kind, f"{by_radius[radius]:.3f}")
    return table


@contextmanager
def _backend(place: Place) -> Iterator[Backend]:
    if place.backend == "ray":
        if find_spec("ray") is None:
            raise ConfigError("DCGAN_BACKEND is ray, which is not installed: pip install 'dcgan[pipeline]'")
        from tasks.backends import RayBackend  # only when asked for

        yield RayBackend(place)  # an embedded Ray ends with this process
    else:
        from dcgan_core.backend import LocalBackend

        yield LocalBackend(place.worker_count())


def _run_shown(stage: Stage, store: Store, backend: Backend, *, refresh: bool, place: Place) -> Artifact:
    with _bar(stage.artifact, stage.unit) as report:
        where = {"root": place.root, "backend": backend.name}
        return run(stage, store, backend, refresh=refresh, progress=report, place=where)


def _bar(label: str, unit: str) -> AbstractContextManager[Report]:
    return progress_on(err, label, unit)


def _hash_of(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"--file {path}: there is no such file")
    return sha256_of_file(path)


def _say(stage: Stage, artifact: Artifact, store: Store) -> None:
    state = "[dim]cached[/]" if artifact.cached else f"[green]done[/] in {artifact.seconds:.1f} s"
    out.print(f"{stage.artifact:<12} {artifact.address.fingerprint}  {state}{_carried_over(stage, store)}")


def _carried_over(stage: Stage, store: Store) -> str:
    """That photos could not be fetched this time and are last time's, and why."""
    manifest = read_manifest(store, stage.address) if stage.artifact == "photos" else None
    why = manifest.metrics.get("carried_over") if manifest else None
    if not manifest or not why:
        return ""
    named = ", ".join(f"{count} of {escape(reason)}" for reason, count in islice(why.items(), 3))
    return f"\n  [yellow]{manifest.counts['carried_over']} photos carried over[/]: {named}"


def _say_plan(stages: list[Stage], pipeline: Pipeline, store: Store, words: str, *, refresh: bool) -> None:
    """What would run and why; ``words`` are the options that a command for a missing input needs too."""
    from dcgan_core.planned import missing_inputs, why_it_would_run

    table = _table("stage", "artifact", "fingerprint", "state", "why")
    would_run: list[Stage] = []
    for stage in stages:
        reasons = why_it_would_run(stage, store, refresh=refresh)
        would_run += [stage] if reasons else []
        state = "[yellow]would run[/]" if reasons else "[dim]cached[/]"
        why = escape("; ".join(reasons))
        table.add_row(stage.flow, stage.artifact, stage.address.fingerprint, state, why)
    out.print(table)
    missing = missing_inputs(would_run, pipeline.stages, store)
    for address in dict.fromkeys(each for stage in would_run for each in stage.inputs.values()):
        if address in missing:
            advice = "" if missing[address] else ", which no stage makes: see dedup.encoder"
            out.print(f"[red]missing[/] {address}{advice}", highlight=False, soft_wrap=True)
    flows = {stage.flow for stage in missing.values() if stage}
    if flows:
        out.print("Run first:")
    for flow in (flow for flow in FLOWS if flow in flows):
        out.print(f"  dcgan run {flow} {words}", markup=False, highlight=False, soft_wrap=True)


def _scores(store: Store, stage: Stage) -> Table | str:
    from dcgan_core.evaluate.score_table import HEAD, NUMBERS, score_lines

    manifest = read_manifest(store, stage.address)
    lines = score_lines(store, manifest) if manifest else []
    if not lines:
        return "no labelled set was judged: evaluate.sets is empty; name some (docs/evaluation.md)"
    table = _table()
    for column, heading in enumerate(HEAD):
        words = [word for line in lines for word in line.cells[column].split()]
        table.add_column(
            heading,
            justify="right" if column in NUMBERS else "left",
            overflow="fold",
            min_width=max(map(len, words), default=0),  # 80 columns hold them, if no word is broken
        )
    for line in lines:
        table.add_row(*map(escape, line.cells))
    return table


def _quality(store: Store, stage: Stage) -> Table | None:
    from dcgan_core.evaluate.score_table import QUALITY_HEAD, quality_lines

    manifest = read_manifest(store, stage.address)
    lines = quality_lines(store, manifest) if manifest else []
    if not lines:
        return None
    table = _table()
    for column, heading in enumerate(QUALITY_HEAD[:-1]):
        table.add_column(heading, justify="right" if column in (1, 2) else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line.cells[:-1]))
    return table


def _artifacts(store: Store) -> Table:
    table = _table("artifact", "size", "age", "counts")
    for manifest in all_manifests(store):
        counts = ", ".join(f"{count} {name}" for name, count in manifest.counts.items())
        if seen := manifest.metrics.get(FLAG):
            counts += f" [yellow](trained on {seen} photos forgotten since)[/]"
        table.add_row(str(manifest.address), _size(manifest.bytes), _age(manifest), counts)
    for address in unfinished(store):
        table.add_row(str(address), "", "", "[yellow]unfinished[/]")
    table.caption = store.root
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _preset_in_words(name: str) -> str:
    from dcgan_core.config import load_config

    config = load_config(name, {"scrape.contact": "somebody@example.org"})
    words: dict[str, Any] = {
        "source": config.scrape.source,
        "crop": config.crop.method,
        "net": config.train.net,
        "size": f"{config.shard.size} px",
    }
    return ", ".join(f"{key} {value}" for key, value in words.items())


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(manifest: Manifest) -> str:
    seconds = (datetime.now(UTC) - manifest.finished).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
