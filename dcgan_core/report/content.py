"""What a report says, as plain values: read by ``gather``, laid out by ``page``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Picture:
    """A picture carried by the page."""

    uri: str
    """A ``data:`` address."""
    alt: str
    width: int
    height: int
    """Size in pixels of the encoded picture."""


@dataclass(frozen=True)
class KeyNumber:
    """One number of the heading, ready to show."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class FunnelStep:
    """How many items were there after a step."""

    label: str
    unit: str
    count: int


@dataclass(frozen=True)
class Drop:
    """Items that a step set aside, all for one reason."""

    step: str
    status: str
    count: int
    share: float
    """Of all rows of the step."""
    reason: str
    """The words one such item was dropped with, empty where none are known."""


@dataclass(frozen=True)
class Example:
    """An example picture with what its source says about it (untrusted text)."""

    picture: Picture
    caption: str = ""
    credit: str = ""


@dataclass(frozen=True)
class Member:
    """One crop of a group of near duplicates."""

    picture: Picture
    kept: bool
    distance_bits: int
    """Bits in which its code differs from that of the crop that was kept."""


@dataclass(frozen=True)
class Group:
    """Near duplicates, the kept one first."""

    members: tuple[Member, ...]
    more: int
    """Members not shown."""


@dataclass(frozen=True)
class Data:
    """From photo to training set."""

    funnel: tuple[FunnelStep, ...]
    drops: tuple[Drop, ...]
    photos: tuple[Example, ...]
    crops: tuple[Picture, ...]
    groups: tuple[Group, ...]
    groups_found: int
    radius_bits: int
    verify: float
    """Similarity that near pairs need as well; 0: none."""
    gallery: str = ""
    """First page of the gallery, from the folder of all artifacts; empty where there is none."""


@dataclass(frozen=True)
class Line:
    """A curve: its name and its points."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SampleSheet:
    """Samples drawn at one step by one set of weights."""

    step: int
    weights: str
    """``ema`` or ``plain``."""
    picture: Picture


@dataclass(frozen=True)
class Best:
    """The step with the lowest score."""

    step: int
    by: str
    """Name of the score."""
    value: float


@dataclass(frozen=True)
class OtherModel:
    """The model kept beside the one that evaluation and figures use."""

    name: str
    """``best`` or ``last``."""
    step: int
    folder: str
    """Where it is, as a shell takes it."""


@dataclass(frozen=True)
class Training:
    """How the networks were trained and what they drew."""

    facts: tuple[tuple[str, str], ...]
    final: tuple[SampleSheet, ...]
    progress: tuple[SampleSheet, ...]
    losses: tuple[Line, ...]
    verdicts: tuple[Line, ...]
    """Mean D(x) and D(G(z))."""
    score: Line
    """That by which the best step is found."""
    score_words: str
    """What the score means."""
    diversity: Line
    """Of samples, relative to that of real images."""
    best: Best | None
    other: OtherModel | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A picture of `analyze`, with what it takes to draw it again."""

    title: str
    caption: str
    picture: Picture
    seed: int
    weights: str


@dataclass(frozen=True)
class ScoreRow:
    """A classifier on one kind of features, by one protocol."""

    features: str
    protocol: str
    width: int
    accuracy: float
    low: float
    high: float
    """95 % interval of the accuracy."""
    sd: float | None
    """Standard deviation over folds or draws; None for a single one."""
    chosen: str
    """The C or k that was chosen; empty for what has none."""
    converged: bool


@dataclass(frozen=True)
class Confusion:
    """Test images by true class (rows) and answer (columns), of one kind of features."""

    features: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScoredSet:
    """What the features are worth on one labelled set."""

    name: str
    source: str
    classes: int
    train: int
    test: int
    rows: tuple[ScoreRow, ...]
    confusion: Confusion | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class QualityRow:
    """A figure of the generator's samples, ready to show."""

    title: str
    value: str
    real: str
    """The same of real images; empty where there is none."""
    meaning: str


@dataclass(frozen=True)
class Quality:
    """What the samples are worth beside real images."""

    rows: tuple[QualityRow, ...]
    about: str
    """Numbers of images."""
    closest: Picture | None
    """Samples beside the training images that they lie nearest to."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One value of the configuration."""

    key: str
    value: str
    default: str
    changed: bool
    meaning: str


@dataclass(frozen=True)
class ArtifactRow:
    """One artifact the report follows from."""

    kind: str
    fingerprint: str
    bytes: int
    rows: int
    parts: int
    parts_reused: int
    seconds: float
    finished: datetime
    backend: str


@dataclass(frozen=True)
class Content:
    """Everything on the page."""

    title: str
    preset: str
    seed: int
    finished: datetime | None
    """When the newest artifact was done; None where there is none."""
    numbers: tuple[KeyNumber, ...]
    data: Data
    training: Training | None
    figures: tuple[Figure, ...]
    scores: tuple[ScoredSet, ...]
    quality: Quality | None
    settings: tuple[Setting, ...]
    artifacts: tuple[ArtifactRow, ...]
    surroundings: tuple[tuple[str, str], ...]
    """Versions and machine: name and value."""
