"""What to compute: one frozen section per stage, presets and overrides. Not where (that is ``place``)."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from dcgan_core.allowed import check_allowed, check_location
from dcgan_core.errors import ConfigError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]

CIFAR_LABELS, SVHN_LABELS = 400, 100
"""Labels a class in the paper's tables 1 and 2."""
_DIGITS = 1797
"""All images of scikit-learn's digits."""
SVHN_VALIDATION = 10_000
"""Training images that choose C in table 2."""


def effort(default: Any, **limits: Any) -> Any:
    """A field that says how hard to try or where a file lies, not what comes out: never fingerprinted."""
    return Field(default, json_schema_extra={"fingerprinted": False}, **limits)


def location(default: Any) -> Any:
    """A field that names a file, a directory or a url: not fingerprinted, and looked at by ``check_allowed``.

    Every such field must be one of these, or the parameters of a run could read an operator's files.
    """
    return Field(default, json_schema_extra={"fingerprinted": False, "location": True})


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, the docstring under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def identity(self, *fields: str) -> dict[str, Json]:
        """The fingerprinted fields (all, or those named) as JSON values."""
        known = type(self).model_fields
        chosen = fields or tuple(known)
        dumped = self.model_dump(mode="json", include=set(chosen))
        return {
            name: dumped[name]
            for name in chosen
            if not (isinstance(extra := known[name].json_schema_extra, dict) and "fingerprinted" in extra)
        }


class ScrapeConfig(Section):
    """Where photos come from and what is fetched of them."""

    source: Literal[
        "folder",
        "imagefolder",
        "parquet",
        "webdataset",
        "cifar10",
        "svhn",
        "mnist",
        "celeba",
        "imagenet",
        "lsun",
        "urls",
        "search",
        "demo",
    ] = "folder"
    """`folder`: photos below a directory, a plain tar or any fsspec prefix. `imagefolder`: one
    sub-directory a class. `parquet`: files with an `image` column. `webdataset`: tars of samples. `cifar10`,
    `svhn`, `mnist`, `celeba`, `imagenet`, `lsun`: these sets as torchvision keeps them. `urls`: a list of
    urls to fetch. `search`: pictures that a search engine finds for names of people. `demo`: the built-in
    LFW pages, fetched from a loopback server."""
    path: str = location("")
    """Directory, file or fsspec url of the source; `webdataset`: also a pattern, `shard-{00000..00041}.tar`;
    torchvision's sets: its `root`. The content, not the name, enters the fingerprint."""
    split: str = "train"
    """torchvision's sets: the part that is taken. `cifar10`, `mnist`: train, test. `svhn`: also extra.
    `celeba`: train, valid, test, all. `imagenet`: train, val. `lsun`: train, val (all ten classes), test, or
    classes by name, as `bedroom_train,tower_train`."""
    download: bool = effort(False)
    """torchvision's sets: let torchvision download or unpack into `path` what is not there."""
    as_of: date | None = None
    """Web sources: the day whose state of the web is wanted. Another day fetches again; a scheduled run
    sets its scheduled date."""
    limit: PositiveInt | None = None
    """Take only the first so many items of the source (for a trial)."""
    url_column: str = "url"
    """Column of a csv, tsv, json or parquet url list that holds the url."""
    caption_column: str | None = None
    """Column of a url list that holds a caption, if any."""
    names_from: Literal["dbpedia", "file"] = "dbpedia"
    """`search`: where names come from. `dbpedia`: by date of birth. `file`: `path`, one name a line."""
    born_from: Annotated[int, Field(ge=1, le=9998)] = 1900
    """`dbpedia`: first year of birth."""
    born_to: Annotated[int, Field(ge=1, le=9998)] = 2005
    """`dbpedia`: last year of birth. The default leaves out who may be a child."""
    max_people: PositiveInt = 10_000
    """`search`: number of people searched for, drawn by seed (paper: 10,000)."""
    engine: str = "commons"
    """`search`: the engine asked. `commons`: Wikimedia Commons. Your own: `package.module:Class`,
    which `DCGAN_ENGINES` must list."""
    images_per_person: Annotated[int, Field(ge=1, le=1000)] = 50
    """`search`: largest number of pictures taken for one name."""
    thumb_width: Literal[250, 330, 500, 960, 1280, 1920, 3840] = 960
    """`commons`: width of the thumbnails asked for in pixels; its servers keep only these ready."""
    licences: tuple[str, ...] = ()
    """Web sources: keep only licences that begin with one of these, whatever the case ("CC0", "CC BY",
    "Public domain"); empty: all. What is left out is a row, and is not fetched."""
    drop_restrictions: tuple[str, ...] = ()
    """Web sources: leave out what carries one of these restrictions, for example `["personality"]`."""
    image_column: str = "image"
    """Column of a parquet source that holds the encoded image: bytes, or a struct `{bytes, path}`."""
    label_column: str = "label"
    """Column of a parquet source that holds an integer class, if it has one. `celeba`: the attribute that is
    the class (0 or 1), if any. `webdataset`: `none` leaves `.cls` members unread."""
    items_per_part: PositiveInt = 256
    """Aim for this many items a part (the unit of parallel work and of resuming)."""
    max_bytes: PositiveInt = 32 * 2**20
    """Largest photo in bytes; larger ones become rows with status `too_large`."""
    max_pixels: PositiveInt = 100_000_000
    """Largest photo in pixels, read from the header before anything is decoded."""
    contact: str = effort("")
    """E-mail address or page that goes into the User-Agent, so that a site can reach you; `urls` and
    `search` need it."""
    allow_loopback: bool = effort(False)
    """Let web sources name loopback addresses (for tests and servers of your own on this machine)."""
    addresses: dict[str, str] = effort({})
    """Host names that are not looked up, with the address and port to use instead, like curl's --resolve:
    `{"photos.example.org" = "127.0.0.1:8080"}`."""
    dbpedia_url: str = location("https://dbpedia.org/sparql")
    """SPARQL endpoint of DBpedia or of a mirror."""
    row_cap: PositiveInt = effort(10_000)
    """Rows after which that endpoint cuts an answer off without a word."""
    commons_url: str = location("https://commons.wikimedia.org/w/api.php")
    """Action API of Wikimedia Commons or of another MediaWiki."""
    concurrency: PositiveInt = effort(64)
    """Requests at once per worker, over all hosts."""
    per_host: PositiveInt = effort(4)
    """Most requests at once per host; fewer where the host slows down. Known hosts have lower caps."""
    timeout_seconds: float = effort(20.0, gt=0)
    """Time for one request, from connecting to the last byte."""
    retries: Annotated[int, Field(ge=0)] = effort(3)
    """Further tries after a passing failure (connection, time-out, 429, 5xx)."""
    retry_base_seconds: float = effort(0.5, ge=0)
    """Upper bound of the first pause before a retry; doubles each time, with full jitter."""
    breaker_failures: PositiveInt = effort(8)
    """Failures in a row after which a host is left alone for `breaker_pause_seconds`, then twice that; after
    the third time it is given up for this run (`host_down`)."""
    breaker_pause_seconds: float = effort(30.0, ge=0)
    """First pause of the circuit breaker."""
    retry_failed: bool = effort(False)
    """Web sources: take a finished scrape up again and fetch what failed, and only that."""
    max_failure_rate: Share = effort(0.9)
    """Stop with TooManyFailures when a larger share of the items than this fails."""
    max_shrink: Share = effort(0.2)
    """Stop with SourceShrunk if a larger share than this of the photos that were usable last time is missing
    now; 1: never stop. A photo that was carried over is not missing, an excluded one does not count."""

    @model_validator(mode="after")
    def _path_is_given(self) -> ScrapeConfig:
        if self.source in ("urls", "search") and not re.search(r"@|https?://", self.contact):
            problem = "no address" if self.contact else "empty"
            raise ValueError(
                f"scrape.contact is {problem}: name an e-mail address or a page (https://...) where a site's "
                "owner can reach you"
            )
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError("scrape.contact goes into a header: use plain ASCII on one line")
        if self.born_to < self.born_from:
            raise ValueError(f"scrape.born_to is {self.born_to}, before scrape.born_from ({self.born_from})")
        for name, address in self.addresses.items():
            if not re.fullmatch(r"\[?[0-9a-fA-F.:]+\]?:\d{1,5}", address):
                raise ValueError(f"scrape.addresses: {name!r} is {address!r}; write address:port")
        return self


class CropConfig(Section):
    """How crops are cut out of photos."""

    method: Literal["haar", "yunet", "center"] = "haar"
    """`haar`: OpenCV's frontal-face cascade. `yunet`: the YuNet network (needs `weights`). `center`: the
    largest centred square, for sets that are not about faces (LSUN, ImageNet, CIFAR-10)."""
    weights: str | None = location(None)
    """Path or url of the YuNet ONNX file. Its sha256 enters the fingerprint, its place does not."""
    weights_sha256: str | None = None
    """Expected sha256 (hex) of `weights`. Needed for a url; checked wherever it is given."""
    stored_size: PositiveInt = 128
    """Side of a stored crop in pixels (the authors stored 128 px faces)."""
    min_size: PositiveInt = 32
    """Smallest side of a face box in pixels of the full photo, before the margin."""
    min_score: Share = 0.7
    """YuNet: smallest detection score kept; finds a little below it become rows with status `low_score`."""
    min_sharpness: Annotated[float, Field(ge=0.0)] = 0.0
    """Crops less sharp than this become rows with status `blurred`: the variance of the Laplacian of the
    stored crop in grey levels. It depends on `stored_size`: at 128 px, 50 takes out what is plainly out of
    focus (1 % of web photos). 0: none."""
    align: bool = False
    """YuNet: turn each crop about its centre until the eyes are level."""
    keep_names: bool = False
    """Give crops the name of who is on them, where the source names it (the photo's query). Off: none is
    kept with a crop."""
    margin: Annotated[float, Field(ge=0.0, le=2.0)] = 0.2
    """Added on each side of the squared box, as a share of its side."""
    max_outside: Share = 1.0
    """Largest share of a crop's square that may lie outside the photo, where the edge is mirrored; 0.1 leaves
    out faces that fill tightly cut photos, 1 keeps all."""
    detect_side: PositiveInt = 640
    """Faces are looked for on the photo reduced to this longest side; crops are cut from the full photo."""
    max_faces: PositiveInt = 16
    """Largest number of faces taken from one photo, best first."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality of stored crops (4:4:4)."""
    photo_seconds: float = effort(30.0, gt=0)
    """Time for one photo, from its bytes to its crops; slower ones become rows with status
    `decoder_timeout`."""

    @model_validator(mode="after")
    def _landmarks_for_alignment(self) -> CropConfig:
        if self.align and self.method != "yunet":
            raise ValueError(
                f"crop.align needs the eyes, which crop.method={self.method} does not find; "
                "use crop.method=yunet, or crop.align=false"
            )
        return self


class DedupConfig(Section):
    """Near-duplicate removal by an autoencoder's semantic hash (paper, section 4.1)."""

    method: Literal["tolerant", "paper"] = "tolerant"
    """What the settings below are where they are not given. `paper`: equal codes of ReLU units, learned with
    noise alone (`shift=0`, `threshold="zero"`, `radius=0`, no `verify`). docs/dedup.md compares the two."""
    encoder: str = ""
    """An autoencoder made before, `autoencoder/FINGERPRINT` in full (dcgan list artifacts), to encode these
    crops with: codes of crops that it has seen to already are taken over. Empty: one is trained on them."""
    code_bits: Annotated[int, Field(multiple_of=8, ge=8, le=1024)] = 128
    """Units of the code layer, one bit each (paper: 3072-128-3072)."""
    sample_size: PositiveInt = 100_000
    """Largest number of crops the autoencoder is trained on, drawn by seed."""
    noise: Annotated[float, Field(ge=0.0)] = 0.1
    """Standard deviation of the Gaussian noise on inputs (denoising); the inputs' own is 1."""
    shift: Annotated[int, Field(ge=0, le=8)] = 1
    """Largest shift of the inputs in pixels while training, so that codes do not hang on the crop's edges."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout rate on the code units while training."""
    epochs: PositiveInt = 10
    """Passes over the sample; small sets are repeated until `min_steps` is reached."""
    min_steps: PositiveInt = 600
    """Smallest number of optimiser steps, so that small sets train long enough."""
    batch_size: PositiveInt = 128
    """Thumbnails per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Adam's step size."""
    threshold: Literal["zero", "median"] = "median"
    """A bit is set where the code unit is above zero, or above its median over the autoencoder's sample."""
    radius: Annotated[int, Field(ge=0, le=32)] = 16
    """Crops whose codes differ in at most this many bits can be duplicates. 0 means equal codes, as in the
    paper; docs/dedup.md says why 16 is the default and when to lower it, and `dcgan dedup-eval` suggests a
    radius for your crops."""
    verify: Annotated[float, Field(ge=0.0, le=1.0)] = 0.86
    """Such crops are duplicates if the structural similarity (SSIM) of their pictures, 16x16 in grey, is at
    least as much. 0: codes decide alone."""
    verify_step: Annotated[float, Field(ge=0.0, le=1.0)] = 0.015
    """What is added to `verify` for every bit beyond 12 in which codes differ: far codes need more alike
    pictures."""
    diameter: Annotated[int, Field(ge=0)] | None = None
    """Most bits in which two crops of one group may differ. None: twice the radius, so that every crop that
    is left out is within the radius of the one kept for it; larger lets groups grow along chains."""
    gallery_groups: PositiveInt = 120
    """Groups shown in the gallery, drawn by seed where there are more."""
    codes_per_task: Annotated[int, Field(ge=2)] = effort(4_000_000)
    """Most codes that one process compares. Larger sets are split by bands of bits and compared on all
    workers, none of which holds them all; the result is the same."""
    rank: Annotated[tuple[Literal["score", "sharpness", "side", "licence"], ...], Field(min_length=1)] = (
        "score",
        "sharpness",
        "side",
    )
    """Which crop of a group is kept: that of the highest value of the first; on a tie of the next; then by
    key. `score` is the face detector's, `side` the smaller side in pixels, `licence` how freely the photo may
    be used (public domain, attribution, share alike, non-commercial, no derivatives, unknown)."""

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_paper(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("method") == "paper":
            return {"shift": 0, "threshold": "zero", "radius": 0, "verify": 0.0, **given}
        return given

    @model_validator(mode="after")
    def _names_an_autoencoder(self) -> DedupConfig:
        if self.encoder and not re.fullmatch("autoencoder/[0-9a-f]{16}", self.encoder):
            raise ValueError(
                f"dedup.encoder={self.encoder!r} is no artifact: give the whole of autoencoder/FINGERPRINT, "
                "as `dcgan show autoencoder` prints it"
            )
        return self


class ShardConfig(Section):
    """How kept crops become a WebDataset."""

    size: PositiveInt = 64
    """Side of a training image in pixels."""
    fit: Literal["resize", "center"] = "resize"
    """`resize`: the whole crop is scaled to `size`. `center`: the central `size` pixels are cut out (the
    authors take the centre 64 px of 128 px boxes)."""
    samples_per_shard: PositiveInt = 2048
    """Largest number of samples in one tar; counts differ by at most one between tars."""
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Format of what is encoded here. A crop that has the right size already is passed through untouched,
    whatever this says."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality (4:4:4: colours keep their resolution)."""
    webp_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """WebP quality. None: lossless. Any number halves the resolution of colours: lossy WebP always does."""
    samples_per_task: PositiveInt = effort(131_072)
    """Most samples that one process holds. Larger sets are shuffled through files, with the same result."""


def _share_or_number(value: float) -> float:
    """Whole numbers as ``int``, whichever way they were written: 0 and 0.0 are one address."""
    if value < 0 or (value >= 1 and (value < 2 or value != int(value))):
        raise ValueError(
            "hold out a share of the photos (train.held_out=0.05), or a whole number of images, two at least "
            "(train.held_out=1000); 0 holds out none"
        )
    return int(value) if value == int(value) else value


class TrainConfig(Section):
    """The paper's training (section 3 and 4) and what may deviate from it, by name."""

    net: Literal["paper64", "imagenet32", "svhn32", "mnist28", "torch64"] = "paper64"
    """Network description; `size`, `width`, `z_size` and `channels` may differ from its own. `mnist28` is
    conditional: it needs the classes 0 to 9 beside the images."""
    size: PositiveInt | None = None
    """Side of the images in pixels, 4 * 2^k (`mnist28`: 7 * 2^k); depth follows from it. None: the net's
    own."""
    width: PositiveInt | None = None
    """Filters of the discriminator's first layer; all others follow. None: the net's own."""
    z_size: PositiveInt | None = None
    """Length of z. None: the net's own."""
    channels: Literal[1, 3] | None = None
    """1: images are turned grey. None: the net's own, 1 for `mnist28` and 3 for the others."""
    d_activation: Literal["leaky", "prelu"] = "leaky"
    """What D's layers end with. `leaky`: slope 0.2 (paper). `prelu`: a learned slope a channel, at first
    0.2."""
    spectral_norm: bool = False
    """Divide each weight of D by its largest singular value (Miyato et al. 2018); batch norm stays."""
    sync_bn: bool = False
    """Let batch norm see the global batch instead of each worker's share."""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """DiffAugment (Zhao et al. 2020): how images are changed, real and drawn, before D sees them. For sets of
    a few thousand images."""
    schedule: Literal["alternate", "both"] = "alternate"
    """`alternate`: each minibatch updates either G or D (the authors' code). `both`: each updates both
    (torch's example and most others)."""
    epochs: Annotated[float, Field(gt=0)] = 25
    """Passes over the data, counted in images shown to the loop. Ignored when `steps` is given."""
    steps: PositiveInt | None = None
    """Minibatches taken, instead of `epochs`."""
    batch_size: PositiveInt = 128
    """Global batch, over all workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's step size (paper: 0.0002)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's beta1 (paper: 0.5)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    """Coupled L2 on all parameters, batch norm's too (the authors' 1e-5)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of G kept for a second set of samples; 0 switches it off."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic of the forward and backward passes; `auto` takes bf16 where the processor has it."""
    data: Literal["auto", "device", "host", "stream"] = effort("auto")
    """Where the pixels are. `device`: all of them decoded on the GPU (without one: in memory), batches are
    taken there. `host`: decoded in main memory, once a machine. `stream`: decoded as training goes. `auto`:
    the first of these that takes at most half of what is free. The order is the same in all."""
    data_threads: PositiveInt = effort(2)
    """Threads that make batches ahead of training (`host` and `stream`)."""
    max_bad: Share = effort(0.001)
    """Largest share of images that may be unreadable: each is left out, counted, and the next good one in
    the shards stands in its place. Beyond it training stops with BadSamples."""
    log_every: PositiveInt = effort(50)
    """Steps between lines of metrics.jsonl."""
    sample_every: PositiveInt = effort(500)
    """Steps between sample grids."""
    checkpoint_every: PositiveInt = effort(500)
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = effort(2)
    """Number of checkpoints kept, the latest; the best is kept beside them."""
    d_steps: PositiveInt = 1
    """Updates of D for each of G (Goodfellow et al. 2014: k), each on a minibatch of its own."""
    objective: Literal["non-saturating", "minmax"] = "non-saturating"
    """What G minimises: -log D(G(z)) (the authors), or log(1 - D(G(z)))."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training, at its end, in which the learning rate falls linearly to 0 (the authors' MNIST:
    0.5)."""
    result: Literal["last", "best"] = "last"
    """The model that evaluation and figures use: that of the last step or that of the best score; the other
    is kept beside it."""
    best_by: Literal["kernel", "nearest"] = "kernel"
    """Score by which the best step is found, lower is better. `nearest`: mean distance of real images to the
    nearest sample in pixels (the authors'). `kernel`: kernel distance in the features of D as it was before
    training, a yardstick that does not change."""
    score_every: PositiveInt = 500
    """Steps between scores."""
    score_images: Annotated[int, Field(ge=2)] = 1000
    """Real images, and samples, that a score compares."""
    held_out: Annotated[int | float, AfterValidator(_share_or_number)] = 0
    """Images that are kept out of training, for scores. A photo's key decides, so that an image that was held
    out once is never trained on, and the reverse. Below 1: this share of the photos, now and later. A whole
    number, 2 at least: this many images of the first training under the root; its threshold holds for all
    later ones, so that the number grows with the set. 0: scores use training images, so they cannot tell
    learning by heart."""
    check_every: PositiveInt = 100
    """Steps between looks at the run's health (finite numbers, dead nets, samples alike or saturated)."""
    grace: Annotated[int, Field(ge=0)] = 500
    """Steps at the beginning in which only numbers that are not finite count as trouble."""
    on_trouble: Literal["lower_rate", "new_seed", "stop"] = "lower_rate"
    """What answers trouble: go back to the last healthy checkpoint with the learning rate times
    `rollback_rate`, or with other noise; or stop."""
    rollback_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor of the learning rate after each rollback."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """Rollbacks before training stops with TrainingDiverged."""
    cuda_graphs: bool = effort(True)
    """On one GPU, replay whole steps as CUDA graphs."""
    compile: bool = effort(False)
    """Compile the nets with torch.compile (minutes at the start; measure before you keep it)."""


class LabelledSet(Section):
    """One labelled set the features are judged on."""

    name: str
    """Short name in tables and file names."""
    kind: Literal[
        "digits",
        "lfw",
        "parquet",
        "imagefolder",
        "shards",
        "cifar10",
        "svhn",
        "mnist",
        "fashion-mnist",
        "stl10",
    ]
    """`digits`: scikit-learn's. `lfw`: faces and non-faces of scikit-image. `cifar10`, `svhn`, `mnist`,
    `fashion-mnist`, `stl10`: these sets as torchvision keeps them below `root`, with their own test part.
    Others are read from `train` and `test`."""
    protocol: Literal["labelled", "cifar10", "svhn", "mnist-nn"] = "labelled"
    """`labelled`: all labels, and so few as `labels_per_class` says. `cifar10`: all labels, and 400 a class
    (paper, table 1). `svhn`: 100 labels a class, with the authors' draws (table 2). `mnist-nn`: no SVM, but
    the label of the nearest of `nn_samples` samples of a conditional generator (appendix)."""
    train: str = location("")
    """Where the training part is. `parquet`: a file. `imagefolder`: a directory with one sub-directory a
    class. `shards`: the folder of a shards artifact, or tars with `.cls` members: one, a directory, a pattern
    (`{00000..00041}`, `*`), an fsspec url."""
    test: str = location("")
    """Where the test part is; empty: `evaluate.test_share` of `train` is held out."""
    root: str = location("")
    """torchvision's sets: the directory it knows as `root`; empty: `evaluate.root`. The content, not the
    path, is fingerprinted."""
    download: bool = effort(False)
    """torchvision's sets: let torchvision download into `root` what is not there."""

    @property
    def is_torchvisions(self) -> bool:
        """Whether torchvision knows the set's files."""
        return self.kind in ("cifar10", "svhn", "mnist", "fashion-mnist", "stl10")

    @model_validator(mode="after")
    def _places_fit_the_kind(self) -> LabelledSet:
        wrong = ("train", "test") if self.is_torchvisions else ("root", "download")
        if given := [field for field in wrong if getattr(self, field)]:
            read = "root" if self.is_torchvisions else "train and test"
            raise ValueError(
                f"labelled set {self.name}: {self.kind} has no {given[0]}; it is read from {read}"
            )
        return self


def _named(value: Any) -> Any:
    return {"name": value, "kind": value} if isinstance(value, str) else value


class EvaluateConfig(Section):
    """What D's features are worth under a linear SVM (paper, section 5)."""

    sets: tuple[Annotated[LabelledSet, BeforeValidator(_named)], ...] = ()
    """Labelled sets; a bare name stands for a kind that needs no more (`digits`, `lfw`, torchvision's)."""
    root: str = location("")
    """Directory that torchvision knows as `root`, for its sets where they name none; empty: `scrape.path`
    for the set that is also `scrape.source`."""
    download: bool = effort(False)
    """Let torchvision download what is not there of its labelled sets."""
    baselines: tuple[Literal["untrained", "pixels", "knn", "kmeans", "supervised"], ...] = (
        "untrained",
        "pixels",
    )
    """What D's features are judged beside. `untrained`: the same net before training. `pixels`: the images
    themselves. `knn`: nearest neighbours in pixels instead of an SVM. `kmeans`: single-layer K-means of
    Coates, Ng and Lee (minutes). `supervised`: a CNN of D's architecture that is told the labels, tuned by
    random search (many minutes)."""
    svm_c: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
    )
    """Values of C tried, from the smallest on until the accuracy on rows that are held back from training
    has plainly fallen; the best of these is taken."""
    knn_k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 3, 5, 9, 15, 25)
    """Numbers of neighbours tried in the same way."""
    labels_per_class: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """For sets of the protocol `labelled`: also judge with so few labels of each class, two at least: C is
    chosen among them."""
    folds: Annotated[int, Field(ge=2)] = 10
    """Disjoint draws of few labels; their mean and standard deviation are given."""
    draws: PositiveInt = 100
    """Draws of 100 labels a class that the protocol `svhn` judges by."""
    nn_samples: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10_000, 50_000)
    """Numbers of samples that the protocol `mnist-nn` judges by (paper: up to 10 million, which need a
    GPU)."""
    kmeans_units: PositiveInt = 1600
    """Centroids of the K-means baseline; features are four times as many."""
    supervised_trials: PositiveInt = 20
    """Settings that random search tries for the supervised CNN."""
    supervised_epochs: PositiveInt = 100
    """Most epochs of each."""
    feature_type: Literal["float16", "float32"] = "float16"
    """How features are kept; they are summed in more."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share held out for testing where a set has no test part."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training images that C is chosen by; all of them are learned from in the end."""
    max_train: PositiveInt = 10_000
    """Largest number of labelled training images used, drawn class-balanced by seed."""
    max_test: PositiveInt = 10_000
    """Largest number of test images used."""
    batch_norm: Literal["recalibrated", "running", "batch"] = "recalibrated"
    """Statistics of D's batch norm for features: means over training batches, running averages, or the
    batch's own (the authors')."""
    quality: tuple[Literal["pixels", "memorisation", "classifier", "inception"], ...] = ("pixels",)
    """Measures of the generator. `pixels`: nearest samples and diversity. `memorisation`: whether samples are
    nearer to training images than unseen images are. `classifier`: distances in features of a classifier
    trained on `quality_set`. `inception`: FID, IS, KID, precision and recall (needs `inception_weights`)."""
    quality_samples: Annotated[int, Field(ge=100)] = 10_000
    """Samples, and at most as many real images, that measures compare. Figures of other numbers differ."""
    quality_set: str = ""
    """The labelled set of `sets` whose test images the generator has not seen, for `classifier` and
    `memorisation`; it must be of the same kind of photos. Empty: the images of `train.held_out`."""
    inception_weights: str | None = location(None)
    """Path or url of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`. Its sha256 enters the
    fingerprint, its place does not; nothing is fetched that is not named here."""
    inception_weights_sha256: str | None = None
    """Expected sha256 (hex) of `inception_weights`. Needed for a url; checked wherever it is given."""

    @field_validator("baselines", "quality")
    @classmethod
    def _once_each(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice:
            raise ValueError(f"{twice} is named twice: name each once")
        return named

    @field_validator("sets")
    @classmethod
    def _names_differ(cls, sets: tuple[LabelledSet, ...]) -> tuple[LabelledSet, ...]:
        names = [each.name for each in sets]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of labelled sets must differ: {', '.join(names)}")
        return sets

    @model_validator(mode="after")
    def _measures_have_what_they_need(self) -> EvaluateConfig:
        names = [each.name for each in self.sets]
        if self.quality_set and self.quality_set not in names:
            raise ValueError(
                f"evaluate.quality_set is {self.quality_set!r}, and evaluate.sets has "
                f"{', '.join(names) or 'no sets'}: name one of them"
            )
        if "classifier" in self.quality and not self.quality_set:
            raise ValueError(
                "evaluate.quality has `classifier`, which is trained on a labelled set: name one of "
                "evaluate.sets in evaluate.quality_set"
            )
        if "inception" in self.quality and not self.inception_weights:
            raise ValueError(
                "evaluate.quality has `inception`, and evaluate.inception_weights is empty: set it to "
                "torch-fidelity's weights-inception-2015-12-05-6726825d.pth, by path or url"
            )
        return self

    @model_validator(mode="after")
    def _protocols_have_enough_images(self) -> EvaluateConfig:
        # Otherwise it would be noticed after the training.
        for each in self.sets:
            classes = 10 if each.is_torchvisions or each.kind == "digits" else 2  # of others: two at least
            least = {
                "cifar10": CIFAR_LABELS * classes * self.folds,
                "svhn": SVHN_VALIDATION + SVHN_LABELS * classes,
            }.get(each.protocol, 1)
            if each.kind == "digits" and least > _DIGITS:
                raise ValueError(
                    f"labelled set {each.name}: the protocol {each.protocol} needs {least:,} training "
                    f"images, and the digits are {_DIGITS:,}: take protocol = 'labelled'"
                )
            if self.max_train < least:
                raise ValueError(
                    f"labelled set {each.name}: the protocol {each.protocol} needs {least:,} training images "
                    f"and evaluate.max_train is {self.max_train:,}; raise it: -o evaluate.max_train={least}"
                )
        return self

    def located(self, scrape: ScrapeConfig) -> EvaluateConfig:
        """The same, each of torchvision's sets with the root that holds for it, if any does."""

        def placed(spec: LabelledSet) -> LabelledSet:
            if not spec.is_torchvisions:
                return spec
            scraped = scrape.source == spec.kind and not (spec.root or self.root)
            root = (scrape.path or ".") if scraped else spec.root or self.root
            download = spec.download or self.download or (scraped and scrape.download)
            return spec.model_copy(update={"root": root, "download": download})

        return self.model_copy(update={"sets": tuple(placed(each) for each in self.sets)})


class AnalyzeConfig(Section):
    """Pictures of what was learned (paper, section 6)."""

    grid: PositiveInt = 64
    """Samples in a grid; a square number looks best."""
    walk_points: Annotated[int, Field(ge=2)] = 9
    """Random points of the latent walk (paper: 9)."""
    walk_steps: PositiveInt = 10
    """Pictures between two points."""
    neighbours: PositiveInt = 8
    """Samples shown beside their nearest training images."""
    nearest: PositiveInt = 5
    """Nearest training images of each."""


class ReportConfig(Section):
    """The page at the end."""

    title: str = "DCGAN"
    """Heading of the page."""
    pictures: PositiveInt = 24
    """Example pictures shown per stage."""


class PipelineConfig(Section):
    """Everything that decides what comes out."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of every random choice."""
    scrape: ScrapeConfig = ScrapeConfig()
    crop: CropConfig = CropConfig()
    dedup: DedupConfig = DedupConfig()
    shard: ShardConfig = ShardConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    analyze: AnalyzeConfig = AnalyzeConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("shard")
    @classmethod
    def _shard_size_is_drawable(cls, shard: ShardConfig) -> ShardConfig:
        # One doubling at least from the 4 px that the nets begin with, or the 7 px of mnist28.
        if shard.size not in {start * 2**k for start in (4, 7) for k in range(1, 20)}:
            raise ValueError(
                f"shard.size is {shard.size}: the networks draw 8, 16, 32, 64, 128 ... pixels, "
                "and mnist28 14, 28, 56 ..."
            )
        return shard


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    folder = resources.files("dcgan_core") / "presets"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_config(preset: str, overrides: Mapping[str, Any] | None = None) -> PipelineConfig:
    """The paper's defaults, changed by a preset (shipped name or path of a TOML file), then by overrides.

    Overrides are dotted keys, ``{"train.steps": 200}``. Raises ConfigError that names the wrong key, with
    the nearest valid one, or the wrong value; NotAllowed for a file, a url or an engine that
    ``DCGAN_ALLOWED_PATHS`` and ``DCGAN_ENGINES`` do not allow.
    """
    values = _read_preset(preset)
    for key in _leaves(values):
        _check_key(key, f"preset {preset!r}")
    for key, value in (overrides or {}).items():
        _check_key(key, "overrides")
        _set(values, key, value)
    try:
        config = PipelineConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
            for problem in error.errors()
        )
        raise ConfigError(f"preset {preset!r} with these overrides is not valid: {problems}") from None
    check_allowed(config)
    return config


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` of the command line; the value is read as TOML where it can be, else as plain text.

    Raises ConfigError where there is no value, or the beginning of a list or table that is not TOML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"-o {text}: write key=value, for example -o train.steps=200")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        if value.lstrip().startswith(("[", "{")):
            example = 'evaluate.sets=["digits", {name = "mine", kind = "imagefolder", train = "photos"}]'
            raise ConfigError(
                f"-o {text}: the value is not valid TOML ({error}); for example -o '{example}'"
            ) from None
        return key.strip(), value


def config_keys() -> list[str]:
    """All dotted keys that can be overridden, sorted."""
    keys = []
    for name, field in PipelineConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            keys.append(name)
    return sorted(keys)


def describe(key: str) -> str:
    """The docstring of a dotted key, on one line."""
    section_name, _, field_name = key.rpartition(".")
    fields = PipelineConfig.model_fields
    if section_name:
        section = cast("type[Section]", fields[section_name].annotation)
        fields = section.model_fields
    return " ".join((fields[field_name].description or "").split())


def _read_preset(preset: str) -> dict[str, Any]:
    if preset in preset_names():
        text = (resources.files("dcgan_core") / "presets" / f"{preset}.toml").read_text("utf-8")
    elif preset.endswith(".toml"):
        check_location("preset", preset)
        try:
            text = Path(preset).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read preset file {preset}: {why}") from None
    else:
        raise ConfigError(
            f"there is no preset {preset!r}{_nearest(preset, preset_names())}; shipped: "
            f"{', '.join(preset_names())}; or give the path of a TOML file of your own"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Only where: some of its messages quote the file, which may not be the reader's to see.
        where = re.search(r"\((at [^()]*)\)$", str(error))
        raise ConfigError(f"preset {preset} is not valid TOML{f' {where[1]}' if where else ''}") from None


def _leaves(values: Mapping[str, Any]) -> list[str]:
    sections = {name for name, field in PipelineConfig.model_fields.items() if _is_section(field.annotation)}
    found = []
    for name, value in values.items():
        if name in sections and isinstance(value, Mapping):
            found += [f"{name}.{inner}" for inner in value]
        else:
            found.append(name)
    return found


def _is_section(annotation: object) -> bool:
    origin = typing.get_origin(annotation)
    return (
        origin not in (types.UnionType, typing.Union)
        and isinstance(annotation, type)
        and issubclass(annotation, Section)
    )


def _check_key(key: str, where: str) -> None:
    keys = config_keys()
    if key not in keys:
        raise ConfigError(f"{where}: there is no key {key!r}{_nearest(key, keys)}; dcgan list keys shows all")


def _nearest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if not close:  # "steps" for "train.steps": compare with the last part alone
        tails = {name.rpartition(".")[2]: name for name in reversed(words)}
        close = [tails[tail] for tail in difflib.get_close_matches(word, list(tails), n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    section, _, field = key.rpartition(".")
    target = values.setdefault(section, {}) if section else values
    target[field] = value
