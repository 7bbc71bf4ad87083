"""Every error this project raises on purpose: each names the thing and the next step."""

from __future__ import annotations


class DcganError(Exception):
    """Root of all errors raised on purpose.

    Subclasses hand *all* their facts to ``super().__init__`` so that they cross process borders
    (pickle rebuilds an exception from ``args``), and put the sentence for people in ``__str__``.
    """


class ConfigError(DcganError):
    """The configuration is wrong; found before any work, never retried."""


class NotAllowed(ConfigError):
    """A parameter of a run names a file, a url or code that the operator has not allowed."""

    def __init__(self, key: str, value: str, why: str, advice: str) -> None:
        super().__init__(key, value, why, advice)
        self.key, self.value, self.why, self.advice = key, value, why, advice

    def __str__(self) -> str:
        return f"{self.key}={self.value!r} is not allowed: {self.why}; {self.advice}"


class MissingArtifact(DcganError):
    """A stage needs an artifact that is not there."""

    def __init__(self, wanted_by: str, artifact: str, fingerprint: str, flow: str, preset: str) -> None:
        super().__init__(wanted_by, artifact, fingerprint, flow, preset)
        self.wanted_by, self.artifact, self.fingerprint = wanted_by, artifact, fingerprint
        self.flow, self.preset = flow, preset

    def __str__(self) -> str:
        return (
            f"{self.wanted_by} needs {self.artifact}/{self.fingerprint}, which is not there; "
            f"run: prefect deployment run {self.flow}/default -p preset={self.preset} "
            f"(or: dcgan run {self.flow} --preset {self.preset}), with the same overrides"
        )


class OutdatedArtifact(DcganError):
    """What a stage reads was made under another exclusion list, so it may hold what must not be used."""

    def __init__(self, wanted_by: str, artifact: str, flow: str, preset: str) -> None:
        super().__init__(wanted_by, artifact, flow, preset)
        self.wanted_by, self.artifact, self.flow, self.preset = wanted_by, artifact, flow, preset

    def __str__(self) -> str:
        return (
            f"{self.wanted_by} reads {self.artifact}, which was made before the exclusion list changed; "
            f"run: dcgan run {self.flow} --preset {self.preset} (what is not excluded is taken over), with "
            "the same overrides"
        )


class CorruptArtifact(DcganError):
    """A file's bytes or rows differ from what its manifest says."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.what}; make it anew: dcgan run STAGE --refresh"


class DamagedTar(CorruptArtifact):
    """A tar of somebody else is not whole, or what it holds is not clear."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; get it or write it again"


class BadSamples(CorruptArtifact):
    """More samples of a set of shards cannot be read than may be left out."""

    def __init__(self, path: str, what: str, address: str) -> None:
        DcganError.__init__(self, path, what, address)
        self.path, self.what, self.address = path, what, address

    def __str__(self) -> str:
        advice = f"; dcgan verify {self.address} names all, and with --repair makes them anew from the crops"
        return f"{self.path} is damaged: {self.what}{advice if self.address else ''}"


class DataError(DcganError):
    """One item cannot be used: it becomes a row's status and never stops a stage."""

    status = "bad"


class DecodeError(DataError):
    """Bytes that are not a readable image; ``status`` names the kind, the message says why."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(status, why)
        self.status, self.why = status, why

    def __str__(self) -> str:
        return self.why


class RefusedByApi(DataError):
    """An API answered, and will not do what it was asked; asking again would not help."""

    status = "search_refused"


class NoUsableData(DcganError):
    """A stage went through its whole input and nothing is left to go on with."""

    def __init__(self, stage: str, counts: dict[str, int], advice: str) -> None:
        super().__init__(stage, counts, advice)
        self.stage, self.counts, self.advice = stage, counts, advice

    def __str__(self) -> str:
        found = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items())) or "no items"
        return f"{self.stage} has nothing left to go on with ({found}). {self.advice}"


class TooManyFailures(DcganError):
    """The stage's own brake: too large a share of its items failed."""

    def __init__(self, stage: str, rate: float, limit: float, counts: dict[str, int]) -> None:
        super().__init__(stage, rate, limit, counts)
        self.stage, self.rate, self.limit, self.counts = stage, rate, limit, counts

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        return (
            f"{self.stage}: {self.rate:.0%} of the items failed, more than the limit of {self.limit:.0%} "
            f"({reasons}). Look at the reasons, then mend the source or raise {self.stage}.max_failure_rate"
        )


class NotEnoughMemory(DcganError):
    """A preset that cannot fit this machine, found before the work starts."""

    def __init__(self, what: str, needed_bytes: int, available_bytes: int, advice: str) -> None:
        super().__init__(what, needed_bytes, available_bytes, advice)
        self.what, self.needed_bytes, self.available_bytes = what, needed_bytes, available_bytes
        self.advice = advice

    def __str__(self) -> str:
        gib = 2**30
        return (
            f"{self.what} needs about {self.needed_bytes / gib:.1f} GiB of memory and "
            f"{self.available_bytes / gib:.1f} GiB is free. {self.advice}"
        )


class StorageUnusable(DcganError):
    """The root cannot be written: read-only, no permission, or full. Retrying will not help."""

    def __init__(self, path: str, why: str, advice: str) -> None:
        super().__init__(path, why, advice)
        self.path, self.why, self.advice = path, why, advice

    def __str__(self) -> str:
        return f"cannot write {self.path}: {self.why}. {self.advice}"


class TransientError(DcganError):
    """Something outside failed and may work again: retried by rule."""


class FetchError(TransientError):
    """A url could not be fetched this time."""


class StorageError(TransientError):
    """The store did not answer as it should."""


class ClusterError(TransientError):
    """The cluster lost a worker or cannot give the resources asked for."""


class NotEnoughResources(DcganError):
    """GPUs or processors that were asked for did not come within ``DCGAN_GPU_WAIT_SECONDS``."""

    def __init__(self, wanted: str, there: str, waited_seconds: float, advice: str) -> None:
        super().__init__(wanted, there, waited_seconds, advice)
        self.wanted, self.there, self.waited_seconds, self.advice = wanted, there, waited_seconds, advice

    def __str__(self) -> str:
        return (
            f"{self.wanted} and {self.there}, also after {self.waited_seconds:g} s; {self.advice}, or wait "
            "longer (DCGAN_GPU_WAIT_SECONDS)"
        )


class TrainingDiverged(DcganError):
    """A run has failed, and going back did not help or was not allowed."""

    def __init__(
        self, step: int, metric: str, words: str, curve: tuple[float, ...] = (), rollbacks: int = 0
    ) -> None:
        super().__init__(step, metric, words, curve, rollbacks)
        self.step, self.metric, self.words = step, metric, words
        self.curve, self.rollbacks = curve, rollbacks

    def __str__(self) -> str:
        tried = f", also after going back {self.rollbacks} times" if self.rollbacks else ""
        curve = f" ({self.metric}: {' '.join(f'{value:.4g}' for value in self.curve)})" if self.curve else ""
        return (
            f"training diverged at step {self.step}{tried}: {self.words}{curve}. Lower train.learning_rate, "
            "look at the training images, or start from another seed (-o seed=...); docs/training.md"
        )


class TrainingStopped(DcganError):
    """A run was asked to stop (SIGTERM, Ctrl-C), and has saved its state.

    ``signal_number`` is that which this process was asked by, 0 where it was another process.
    """

    def __init__(self, step: int, steps: int, signal_number: int = 0) -> None:
        super().__init__(step, steps, signal_number)
        self.step, self.steps, self.signal_number = step, steps, signal_number

    def __str__(self) -> str:
        return (
            f"training was asked to stop and has saved step {self.step} of {self.steps}; run the same "
            "command again: it goes on from there"
        )


class ResumeRefused(ConfigError):
    """Checkpoints at this address were made under other settings."""

    def __init__(self, address: str, changes: tuple[tuple[str, str, str], ...]) -> None:
        super().__init__(address, changes)
        self.address, self.changes = address, changes

    def __str__(self) -> str:
        changed = "; ".join(f"{name}: {old} -> {new}" for name, old, new in self.changes)
        return (
            f"{self.address} holds checkpoints of another training ({changed}); go on with its settings, or "
            "train anew: --refresh deletes them"
        )


class FeaturesUnusable(DcganError):
    """Features that no distance can be taken of: not finite, too few, or of another width."""

    def __init__(self, what: str, why: str, advice: str) -> None:
        super().__init__(what, why, advice)
        self.what, self.why, self.advice = what, why, advice

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.advice}"


class FeaturesNotFinite(ConfigError):
    """D's features of an image are NaN or infinity, or more than their type holds."""

    def __init__(self, row: int, others: int, dtype: str, of: str = "") -> None:
        super().__init__(row, others, dtype, of)
        self.row, self.others, self.dtype, self.of = row, others, dtype, of

    def __str__(self) -> str:
        others = f" and of {self.others} others in its batch" if self.others else ""
        return (
            f"{self.of}{': ' if self.of else ''}features of image {self.row}{others} are not finite in "
            f"{self.dtype}; keep them in float32 (evaluate.feature_type), and where they are not finite "
            "either, look at the net's weights"
        )


class ExportDiffers(DcganError):
    """An exported net does not compute what the trained one does; the export was deleted."""

    def __init__(self, name: str, difference: float, allowed: float) -> None:
        super().__init__(name, difference, allowed)
        self.name, self.difference, self.allowed = name, difference, allowed

    def __str__(self) -> str:
        return (
            f"{self.name} differs from the trained net by up to {self.difference:.1e}, more than the "
            f"{self.allowed:.0e} allowed, so nothing was written; try other versions of torch and "
            "onnxruntime (constraints.txt has those that are tested)"
        )
