"""Nearest neighbours of images among any number of samples, streamed: one best distance an image is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_core.errors import ConfigError, FeaturesUnusable
from dcgan_core.evaluate.moments import checked
from dcgan_core.progress import Progress, silent

_BLOCK = 4096
_NORMS = 512
_HALF = 128  # taken from bytes, so that none is larger than 128
_EXACT_COLUMNS = 1024  # as many products of two such fit into the 24 bits in which float32 is exact
_INT32_COLUMNS = 33_000  # as many squared differences of bytes fit into 31 bits


class NearestNeighbours:
    """For each query the nearest of all points seen so far, ties to the point that came first.

    Queries (Q, ...) and points (B, ...) are flattened. Bytes are compared exactly: their products are whole
    numbers that float32 holds, on a processor, a GPU, and also with TF32. Other values are compared in
    float64; with ``quick``, float32 ones in float32 about the mean query, which can take a point for the
    nearest that is farther by some 1e-6 of the squared norms. Distances are exact in any case, that is of
    float64. Raises FeaturesUnusable for values that are not finite, another width, or bytes beside floats.
    """

    def __init__(
        self, queries: Tensor, *, device: torch.device | str = "cpu", quick: bool = False, block: int = _BLOCK
    ) -> None:
        self._block = block
        self._bytes = queries.dtype == torch.uint8
        self._single = quick and queries.dtype == torch.float32
        flat_QF = checked(queries.flatten(1), "queries").to(device)
        self._centre_F = None if self._bytes else flat_QF.double().mean(0)
        self._queries_QF = self._prepared(flat_QF)
        self._norms_Q = self._norms(self._queries_QF)
        q = len(flat_QF)
        self.squared_Q = torch.full((q,), torch.inf, dtype=torch.float64, device=device)
        """Squared distances, float64, in units of the values; infinite before any point was seen."""
        self.index_Q = torch.full((q,), -1, dtype=torch.int64, device=device)
        """The nearest point's number in the order of all points seen."""
        self.label_Q = torch.full((q,), -1, dtype=torch.int64, device=device)
        """The nearest point's label, where points come with labels."""
        self.seen = 0

    @property
    def distance_Q(self) -> Tensor:
        """Euclidean distances, float64 (Q,)."""
        return self.squared_Q.sqrt()

    @torch.no_grad()
    def update(self, points: Tensor, labels_B: Tensor | None = None) -> None:
        """Compare with more points (B, ...) of the queries' type, with labels int64 (B,) if there are."""
        if (points.dtype == torch.uint8) != self._bytes:
            raise FeaturesUnusable("points", f"{points.dtype} beside other queries", "give both as one type")
        flat_BF = checked(points.flatten(1), "points", self._queries_QF.shape[1])
        for start in range(0, len(flat_BF), self._block):
            points_BF = self._prepared(flat_BF[start : start + self._block].to(self._queries_QF.device))
            norms_B = self._norms(points_BF)
            for first in range(0, len(self._queries_QF), self._block):
                rows = slice(first, first + self._block)
                squared, place = self._nearest(rows, points_BF, norms_B)
                closer = squared < self.squared_Q[rows]
                self.squared_Q[rows] = torch.where(closer, squared, self.squared_Q[rows])
                self.index_Q[rows] = torch.where(closer, place + self.seen, self.index_Q[rows])
                if labels_B is not None:
                    labels = labels_B[start : start + self._block].to(place.device)[place]
                    self.label_Q[rows] = torch.where(closer, labels, self.label_Q[rows])
            self.seen += len(points_BF)

    def _prepared(self, flat_BF: Tensor) -> Tensor:
        if self._centre_F is None:
            return flat_BF.float() - _HALF
        centred_BF = flat_BF.double() - self._centre_F
        return centred_BF.float() if self._single else centred_BF

    def _norms(self, x_BF: Tensor) -> Tensor:
        if not self._bytes:
            return x_BF.square().sum(1)
        blocks = x_BF.split(_NORMS) or (x_BF,)  # in float64, of which all rows would be much memory
        return torch.cat([block.double().square().sum(1) for block in blocks]).to(self._whole)

    @property
    def _whole(self) -> torch.dtype:
        return torch.int32 if self._queries_QF.shape[1] <= _INT32_COLUMNS else torch.int64

    def _nearest(self, rows: slice, points_BF: Tensor, norms_B: Tensor) -> tuple[Tensor, Tensor]:
        """(squared distance, place in the block) of the nearest point, each (rows,)."""
        queries_RF = self._queries_QF[rows]
        if self._bytes:
            squared_RB = self._whole_products(queries_RF, points_BF).mul_(-2).add_(norms_B)
            place = squared_RB.argmin(1)
            squared = squared_RB.gather(1, place[:, None])[:, 0] + self._norms_Q[rows]
            return squared.double(), place
        place = torch.addmm(norms_B[None], queries_RF, points_BF.T, alpha=-2).argmin(1)
        # Anew from the differences: the expanded square loses digits where points are near.
        return (queries_RF.double() - points_BF[place].double()).square().sum(1), place

    def _whole_products(self, queries_RF: Tensor, points_BF: Tensor) -> Tensor:
        """Inner products as whole numbers (R, B), by as many columns at a time as float32 sums exactly."""
        pieces = zip(queries_RF.split(_EXACT_COLUMNS, 1), points_BF.split(_EXACT_COLUMNS, 1), strict=True)
        first, *others = ((q @ p.T).to(self._whole) for q, p in pieces)
        for other in others:
            first += other
        return first


@dataclass(frozen=True)
class CurvePoint:
    """A figure after so many samples, with the standard error that the finite set of images gives it."""

    samples: int
    value: float
    error: float


def distance_curve(
    images_NHW3: Tensor,
    batches: Iterable[Tensor],
    marks: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Mean distance of held-out images to the nearest sample, after each number of samples in ``marks``.

    The authors' ``nnd_score``, there after 1k, 10k and 100k samples. Images and samples are uint8; distances
    are of pixels in [-1, 1], comparable within one size of images only. Exact. Raises ConfigError where
    fewer samples come than the last mark.
    """
    search = NearestNeighbours(images_NHW3, device=device)
    curve = []
    for samples in at_marks(search, ((batch, None) for batch in batches), marks, progress):
        distance_N = search.distance_Q / 127.5
        error = float(distance_N.std()) / len(distance_N) ** 0.5 if len(distance_N) > 1 else math.nan
        curve.append(CurvePoint(samples, float(distance_N.mean()), error))
    return curve


def label_error_curve(
    images_NHW3: Tensor,
    labels_N: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    marks: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Share of images whose nearest labelled sample has another label: the paper's MNIST-NN (appendix).

    Batches are (samples uint8, the labels int64 they were drawn with); several marks take one pass over the
    largest number. In samples that come class by class an early mark has seen some classes only: draw
    classes in turn. ``labels_N`` judge, they never choose. Exact; errors as for ``distance_curve``.
    """
    search = NearestNeighbours(images_NHW3, device=device)
    truth_N = labels_N.to(search.label_Q.device)
    curve = []
    for samples in at_marks(search, batches, marks, progress):
        share = float((search.label_Q != truth_N).double().mean())
        curve.append(CurvePoint(samples, share, (share * (1 - share) / len(truth_N)) ** 0.5))
    return curve


def at_marks(
    search: NearestNeighbours,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    marks: Sequence[int],
    progress: Progress,
) -> Iterator[int]:
    """Go through the batches, stop after each mark, and leave the rest of the last batch unseen.

    Yields the mark, as often as there are marks; ConfigError where fewer samples come than the last.
    """
    wanted = sorted(set(marks))
    if not wanted or wanted[0] < 1:
        raise ConfigError(f"numbers of samples {list(marks)}: give one or more, of at least 1")
    for points, labels in batches:
        done = 0
        while done < len(points):
            part = slice(done, done + min(len(points) - done, wanted[0] - search.seen))
            search.update(points[part], None if labels is None else labels[part])
            done = part.stop
            progress(search.seen, max(marks), f"{search.seen:,} samples compared")
            if search.seen == wanted[0]:
                yield wanted.pop(0)
            if not wanted:
                return
    raise ConfigError(f"only {search.seen:,} samples came; {wanted[0]:,} are to be compared")
