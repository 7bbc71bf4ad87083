"""How the networks were trained and what they drew, as a reader of the report needs it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dcgan_core import images
from dcgan_core.artifacts import Manifest, PartFile, read_part
from dcgan_core.report.content import Best, Line, OtherModel, SampleSheet, Training
from dcgan_core.report.examples import jpeg_picture, sheet_picture, spread
from dcgan_core.storage import Store

PROGRESS_SHEETS = 8
PROGRESS_TILES = 4
"""Rows and columns of samples shown of each step."""

_FEW_IMAGES = 5_000
_GRID_PAD = 2
_SHEET_QUALITY = 90
_SCORES = {
    "kernel": ("Kernel distance", "in the features of D as it was before training"),
    "nearest": ("Nearest sample", "mean distance in pixels of a real image to the sample nearest to it"),
}
"""Name and meaning of the scores that a best step can be chosen by."""


def training(store: Store, train: Manifest | None) -> Training | None:
    """What the trained artifact holds; of artifacts of earlier versions, what these held."""
    if train is None:
        return None
    about = json.loads(_only(store, train, "model.json"))
    log = [json.loads(line) for line in _only(store, train, "metrics.jsonl").splitlines()]
    spec, best_by = about["spec"], train.config.get("best_by", "kernel")
    series = {
        weights: train.named(f"samples/{prefix}-") for weights, prefix in (("ema", "ema"), ("plain", "step"))
    }
    followed = "plain" if series["plain"] else "ema"
    last = len(series[followed]) - 1
    chosen = sorted({*spread(last, PROGRESS_SHEETS - 1), last}) if last >= 0 else []
    best = _best(about)
    return Training(
        facts=_facts(train, spec, best),
        final=tuple(
            SampleSheet(
                _step_of(files[-1]), weights, sheet_picture(store, train, files[-1], _final_alt(weights))
            )
            for weights, files in series.items()
            if files
        ),
        progress=tuple(
            _progress_sheet(store, train, series[followed][index], followed, spec["size"]) for index in chosen
        ),
        losses=(_line(log, "discriminator", "loss_d"), _line(log, "generator", "loss_g")),
        verdicts=(_line(log, "D(x), real images", "d_real"), _line(log, "D(G(z)), samples", "d_fake")),
        score=_line(log, _SCORES[best_by][0].lower(), best_by),
        score_words=_score_words(train.config, best_by),
        diversity=_line(log, "diversity of samples", "diversity"),
        best=best,
        other=_other_model(store, train),
        notes=(*_notes(train), *_rollbacks(about.get("rollbacks", ()), train.config)),
    )


def _only(store: Store, manifest: Manifest, name: str) -> str:
    return read_part(store, manifest.address, manifest.named(name)[0]).decode()


def _best(about: Mapping[str, Any]) -> Best | None:
    """The best step; None where no step was scored."""
    score = about.get("score", {})
    if "value" not in score:
        return None
    return Best(int(score["step"]), _SCORES[score["by"]][0].lower(), float(score["value"]))


def _facts(train: Manifest, spec: Mapping[str, Any], best: Best | None) -> tuple[tuple[str, str], ...]:
    config, counts = train.config, train.counts
    seen, shown = counts["images_seen"], _shown_to_d(train)
    facts = [
        ("Network", f"{spec['name']}, {spec['size']} px"),
        ("First layer of D", f"{spec['discriminator'][0]['filters']} filters"),
        ("z", f"{spec['z_size']} values, {spec['z_kind']}"),
        ("Schedule", str(config["schedule"])),
        ("Batch", f"{config['batch_size']} images"),
        ("Adam", f"step size {config['learning_rate']:g}, beta1 {config['beta1']:g}"),
        ("Updates", f"{counts['g_updates']:,} of G, {counts['d_updates']:,} of D"),
        ("Images seen", f"{seen:,}" if shown == seen else f"{seen:,}, {shown:,} of them by D"),
        ("Average of G", f"decay {config['ema']:g}" if config["ema"] else "off"),
        *_options(config, spec),
    ]
    if best:
        facts.append(("Best step", f"{best.step:,}, {best.by} {best.value:.3g}"))
    return tuple(facts)


def _shown_to_d(train: Manifest) -> int:
    """Images: the minibatches of the steps that update only G are passed over."""
    return train.counts["d_updates"] * train.config["batch_size"]


def _options(config: Mapping[str, Any], spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What deviates from the paper's training, where it does."""
    d_steps, decay = config.get("d_steps", 1), config.get("decay", 0)
    options = {
        "Augmentation": ", ".join(config.get("augment", ())),
        "Activation of D": "PReLU" if spec.get("d_activation") == "prelu" else "",
        "Spectral norm": "of D's weights" if spec.get("spectral_norm") else "",
        "Batch norm": "over all workers" if config.get("sync_bn") else "",
        "Objective of G": "min-max" if config.get("objective") == "minmax" else "",
        "Updates of D for each of G": str(d_steps) if d_steps > 1 else "",
        "Decay of the rate": f"to 0 in the last {100 * decay:g} % of the steps" if decay else "",
        "Result": "the best step's model" if config.get("result") == "best" else "",
    }
    return [(name, words) for name, words in options.items() if words]


def _notes(train: Manifest) -> list[str]:
    samples = train.counts["samples"] - train.counts.get("held_out", 0)
    times = _times(_shown_to_d(train) / samples)
    notes = []
    if samples < _FEW_IMAGES:
        notes.append(
            f"The training set is small: {samples:,} images, each shown about {times}. "
            "With so few, the discriminator can learn them by heart, and samples tend to resemble them. The "
            "paper's sets hold 350,000 (faces) to 3 million images (bedrooms)."
        )
    return notes


def _rollbacks(rollbacks: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """A sentence about each time that training went back."""
    answers = {
        "lower_rate": f"with the learning rate times {config.get('rollback_rate', 0):g}",
        "new_seed": "with other noise",
    }
    return [
        f"At step {each['step']:,} training went back to "
        f"{'step ' + format(each['to_step'], ',') if each['to_step'] else 'its beginning'} and on "
        f"{answers.get(each['answer'], each['answer'])}, because {each['words']}."
        for each in rollbacks
    ]


def _score_words(config: Mapping[str, Any], best_by: str) -> str:
    name, meaning = _SCORES[best_by]
    held_out = config.get("held_out", 0)
    compared = (
        "images kept out of training" if held_out else "training images, so learning by heart lowers it"
    )
    return f"{name} of samples and real images ({meaning}; {compared}). Lower is better."


def _other_model(store: Store, train: Manifest) -> OtherModel | None:
    """The model beside the one that evaluation and figures use, where there is one."""
    for folder in ("best", "last"):
        if train.named(f"{folder}/model.json"):
            step = json.loads(_only(store, train, f"{folder}/model.json"))["step"]
            path = shlex.quote(store.uri(train.address.part_path(folder)))
            return OtherModel(folder, int(step), path)
    return None


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _final_alt(weights: str) -> str:
    return f"Sheet of samples drawn by the {'averaged' if weights == 'ema' else 'plain'} generator"


def _step_of(file: PartFile) -> int:
    return int(file.name.rpartition("-")[2].partition(".")[0])


def _progress_sheet(store: Store, train: Manifest, file: PartFile, weights: str, size: int) -> SampleSheet:
    rgb = images.decode_rgb(read_part(store, train.address, file), max_pixels=2**31)
    side = PROGRESS_TILES * (size + _GRID_PAD) + _GRID_PAD
    step = _step_of(file)
    return SampleSheet(
        step, weights, jpeg_picture(rgb[:side, :side], f"Samples at step {step}", _SHEET_QUALITY)
    )


def _line(log: Sequence[Mapping[str, float]], name: str, key: str) -> Line:
    points = [(line["step"], line[key]) for line in log if key in line]
    return Line(name, tuple(step for step, _ in points), tuple(value for _, value in points))
