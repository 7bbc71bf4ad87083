"""Where the newest results lie, in words for the terminal."""

from __future__ import annotations

from rich.console import Console

from dcgan_core.artifacts import LATEST_REPORT, Manifest, all_manifests
from dcgan_core.evaluate.score_table import score_lines
from dcgan_core.place import load_place
from dcgan_core.storage import Store


def say_where() -> None:
    """Print the report's path, the sample pictures and the scores of the newest run under the root."""
    place = load_place()
    store = place.store()
    lines = [f"[bold]Report[/]    {store.uri(LATEST_REPORT)}"]
    lines += [f"[bold]Samples[/]   {picture}" for picture in _pictures(store)]
    lines += [f"[bold]Scores[/]    {line}" for line in _scores(store)]
    lines += ["", f"Look around: [bold]DCGAN_ROOT={place.root} .venv/bin/dcgan list[/]"]
    console = Console(highlight=False)
    console.rule("[green]done")
    for line in lines:
        console.print(line, soft_wrap=True)  # a path must come out whole, to be clicked or copied


def _pictures(store: Store) -> list[str]:
    found = []
    for manifest in _latest(store, "figures") + _latest(store, "train"):
        wanted = manifest.named("samples-") or manifest.named("samples/ema-")[-1:]
        found += [
            store.uri(manifest.address.part_path(file.name)) for file in wanted if _is_picture(file.name)
        ]
    return found


def _scores(store: Store) -> list[str]:
    return [line for manifest in _latest(store, "scores") for line in scores_in_words(store, manifest)]


def scores_in_words(store: Store, scores: Manifest) -> list[str]:
    """A line for each set and protocol: `digits, all labels: 97.1% discriminator, 96.2% raw pixels`."""
    by_protocol: dict[str, list[str]] = {}
    for line in score_lines(store, scores):
        said = by_protocol.setdefault(f"{line.set}, {line.protocol}", [])
        said.append(f"{line.accuracy:.1%} {line.features}")
    return [f"{name}: {', '.join(said)}" for name, said in by_protocol.items()]


def _latest(store: Store, artifact: str) -> list[Manifest]:
    return all_manifests(store, artifact)[-1:]


def _is_picture(name: str) -> bool:
    return name.endswith(".png")
