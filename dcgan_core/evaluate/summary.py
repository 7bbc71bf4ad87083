"""What is kept of one side of a comparison, real or generated: streamed, and saved to one file."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dcgan_core.errors import CorruptArtifact, FeaturesUnusable
from dcgan_core.evaluate.moments import Moments, checked


@dataclass(eq=False)
class Summary:
    """Moments of all features seen, and the first ``keep`` rows for what needs features themselves.

    10,000 rows of 2,048 features are 80 MB. The order of images decides which are kept: give them in an
    order that does not follow their classes.
    """

    what: str
    """Whose features they are, for errors: ``real images``."""
    keep: int = 10_000
    moments: Moments | None = None
    _kept: list[Tensor] = field(default_factory=list)

    def update(self, features_BF: Tensor) -> None:
        """Take a batch, float32 or float64 (B, F); FeaturesUnusable, and none of it counts, if not finite."""
        checked(features_BF, self.what)
        if self.moments is None:
            self.moments = Moments.empty(features_BF.shape[1], features_BF.device)
        self.moments.update(features_BF, self.what)
        room = self.keep - sum(map(len, self._kept))
        if room > 0:
            self._kept.append(features_BF[:room].clone())

    def merge(self, other: Summary) -> None:
        """Take what another process has seen after this one; the rows kept are the first of both."""
        if other.moments is None:
            return
        if self.moments is None:
            self.moments = Moments.empty(len(other.moments.mean_F), other.moments.mean_F.device)
        self.moments.merge(other.moments)
        room = max(0, self.keep - sum(map(len, self._kept)))
        self._kept.append(other.kept_NF[:room].to(self.moments.mean_F.device))

    @property
    def seen(self) -> Moments:
        """The moments; FeaturesUnusable before the first batch."""
        if self.moments is None:
            raise FeaturesUnusable(self.what, "no features came", "give images")
        return self.moments

    @property
    def kept_NF(self) -> Tensor:
        """The rows that are kept, in their order."""
        if len(self._kept) != 1:
            self._kept = [torch.cat(self._kept)] if self._kept else [self.seen.mean_F.new_empty(0, 0)]
        return self._kept[0]

    def to_bytes(self) -> bytes:
        """An npz file, without pickled objects."""
        buffer = io.BytesIO()
        kept_NF = self.kept_NF.cpu().numpy()
        np.savez(buffer, keep=self.keep, kept_NF=kept_NF, **self.seen.to_arrays())  # pyright: ignore
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> Self:
        """The inverse of ``to_bytes``, on the processor. CorruptArtifact for other bytes."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                kept_NF = torch.from_numpy(arrays["kept_NF"])
                return cls(what, int(arrays["keep"]), Moments.from_arrays(arrays), [kept_NF])
        except Exception as error:  # whatever a damaged zip makes of itself
            raise CorruptArtifact(f"features of {what}", f"{type(error).__name__}: {error}") from None
