"""What a user asks of a prediction, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from vnp.errors import UsageError
from vnp.files.records import read_record, write_record
from vnp.metrics.prevalence import NONE, given_prevalence
from vnp.metrics.rules import BEST_FRAME, RULES
from vnp.runs.request import ClassifierChoice

SCHEMA = "vnp-predict/2"


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What decides the calls, and what is written beside them."""

    checkpoint: str  # absolute path of the classifier, or ``native``
    checkpoint_sha256: str  # of its bytes
    layout: str  # kind of layout that it reads, ``1664`` or ``full``
    native: bool = False  # chunks without an open frame are scored by the native network
    threshold: float | None = None  # probability from which on a record is called viral; None where a preset says
    preset: str | None = None  # name of the thresholds by length, of the classifier's presets; None where there is one
    rule: str = BEST_FRAME  # how rows decide for their record, one of ``vnp.metrics.rules.RULES``
    max_fdr: float | None = None  # largest false discovery rate of a viral call, or None
    min_length: int = 0  # bases below which a record is not called
    parquet: bool = False  # write the tables as Parquet too
    virnucpro: bool = False  # write VirNucPro's two files too
    fasta: bool = True  # write the called sequences
    regions: bool = False  # look for viral stretches inside longer records
    # share of viruses that probabilities are told for: a number, ``auto`` for what the records show, or None. With one,
    # and neither threshold nor preset, what is more likely viral than not is called so
    prevalence: float | str | None = None
    columns: str = "all"  # of the table of records: their names, separated by commas
    by_sample: bool = False  # write tables and sequences of each sample too
    # share of calls that may differ because native settles records, which are not embedded; None where all are
    cascade: float | None = None

    def check(self) -> None:
        """Refuse what cannot be, by UsageError."""
        check_numbers(self.threshold, self.max_fdr, self.min_length)
        chosen = (self.threshold is not None) + (self.preset is not None)
        if chosen != 1 and (chosen or self.prevalence is None):
            raise UsageError("--threshold and --preset both say what is viral: give one of them")
        if self.prevalence is not None and given_prevalence(str(self.prevalence)) == NONE:
            raise UsageError(f"a prevalence of {NONE} is none")
        if self.rule not in RULES:
            raise UsageError(f"--rule must be one of {', '.join(RULES)}, not {self.rule!r}")

    @property
    def classifier(self) -> ClassifierChoice:
        """The classifier, as a run has it."""
        return ClassifierChoice(self.checkpoint, self.checkpoint_sha256, self.layout)

    def write(self, path: Path) -> None:
        """Write them durably, for the step that comes after the shards; StorageError where they cannot be written."""
        write_record(path, self, schema=SCHEMA, seal="digest")

    @classmethod
    def read(cls, path: Path) -> PredictOptions | None:
        """Read what ``write`` wrote; None if there is no such file, RunError where it is damaged."""
        return read_record(path, cls, schema=SCHEMA, seal="digest", older=True, remedy="delete it and predict again")


CHOICES = tuple(field.name for field in fields(PredictOptions))[4:]
"""What a user may choose; the checkpoint decides what comes before."""


def check_numbers(threshold: float | None, max_fdr: float | None, min_length: int | None) -> None:
    """Refuse numbers that cannot be, by UsageError; None is nothing to check."""
    for option, value in (("--threshold", threshold), ("--max-fdr", max_fdr)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{option} is a share, from 0 to 1, not {value}")
    if min_length is not None and min_length < 0:
        raise UsageError(f"--min-length is a number of bases, at least 0, not {min_length}")


class OutputPaths:
    """The files of a prediction, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "predict.json"  # what was asked; written before the shards are made
        self.summary = root / "predictions.json"  # what was found; written last, and proof that the others are whole
        self.fasta = root / "viral.fna"  # the sequences that were called viral
        self.samples = root / "samples"  # folder of the folders of samples
        self.counts = root / "summary.json"  # counts in all and of each sample, for other programs
        self.multiqc = root / "vnp_mqc.json"  # the same for MultiQC
        # viral stretches: as a table, as BED, and their sequences
        self.regions = self.table(REGIONS), root / "regions.bed", root / "regions.fna"
        self.report = root / "report.html"
        self.virnucpro_frames = root / "prediction_results.txt"
        self.virnucpro_chunks = root / "prediction_results_highestscore.csv"

    def table(self, name: str) -> Path:
        """``frames``, ``chunks`` or ``predictions`` as TSV."""
        return self.root / f"{name}.tsv"

    def parquet(self, name: str) -> Path:
        """The same as Parquet."""
        return self.root / f"{name}.parquet"

    def results(self) -> list[Path]:
        """All that a prediction can write but its settings, the summary first, and what stands of single samples."""
        tables = [form(name) for name in TABLES for form in (self.table, self.parquet)]
        others = [self.fasta, self.report, self.counts, self.multiqc, self.virnucpro_frames, self.virnucpro_chunks]
        pieces = [path for folder in sorted(self.samples.glob("*")) for path in OutputPaths(folder).results()]
        return [self.summary, *tables, *self.regions, *others, *(path for path in pieces if path.exists())]


TABLES = ("frames", "chunks", "predictions", "samples")
REGIONS = "regions"
