"""A trained classifier: its file, with all that is needed to know what it may be used on, and what scores rows by it.

A checkpoint is what ``torch.save`` makes of a dictionary of tensors and text: ``torch.load`` reads it with
``weights_only=True``, and nothing in it can run. The same training writes the same bytes: no time, no path is in it. A
digest of its content is in it, and compared when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vnp.classifier.calibration import Calibration
from vnp.classifier.cascade import Agreement
from vnp.classifier.classifier import distances, margins, require_kind
from vnp.classifier.model import CLASSES, MLPClassifier
from vnp.encoders.device import choose_device
from vnp.errors import FeatureError, LayoutError, storage_error
from vnp.features.layout import FeatureLayout
from vnp.features.split import PARTS, TEST, VALIDATION
from vnp.features.table import all_finite
from vnp.files.records import from_json, parse_json, read_regular
from vnp.files.tensors import load_tensors, save_tensors
from vnp.metrics.presets import Preset, presets_from_json
from vnp.metrics.rules import BEST_FRAME
from vnp.metrics.trust import HeldOut, Trust

VIRNUCPRO_CLASS = "__main__.MLPClassifier"
"""What the pickled classifiers of VirNucPro are."""
_FORMAT = "vnp-classifier"
_VERSION = 1
# Fields that stand in the file as they are.
_PLAIN = ("encoders", "chunk", "threshold", "origin", "training", "split", "metrics", "code", "classes")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained classifier."""

    weights: Mapping[str, torch.Tensor]  # the network's state, float32 (and one integer counter) on the CPU
    layout: FeatureLayout  # columns of the rows that it reads
    # identity of the encoder of each part (``dna``, ``protein``): name, hub id, revision, hashes of the weights and
    # more, as a run's provenance has them. A converted checkpoint knows fewer of them
    encoders: Mapping[str, Mapping[str, Any]]
    chunk: int  # bases of a chunk
    calibration: Calibration = field(default_factory=Calibration)  # from log-odds to probability
    threshold: float = 0.5  # probability from which on a row is called viral, where there are no presets
    presets: Mapping[str, Preset] = field(default_factory=dict)  # thresholds for records, by name
    trust: Trust = field(default_factory=Trust)  # how far its probabilities and calls can be trusted
    agreement: Agreement | None = None  # how it and the native network score held-out records, where that was measured
    classes: tuple[str, ...] = CLASSES  # names of the outputs
    origin: str = "vnp"  # ``vnp``, or ``VirNucPro`` for a converted one
    training: Mapping[str, Any] = field(default_factory=dict)  # recipe, rows, digest of the training data, epochs
    # how rows were dealt out, with the groups of each part counted
    split: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)  # by part (``validation``, ``test``), then by name
    code: Mapping[str, str] = field(default_factory=dict)  # versions of vnp and of the libraries under it

    @property
    def digest(self) -> str:
        """SHA-256 over the weights, hexadecimal: two checkpoints with the same one score alike before calibration."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.classes

    @property
    def viral(self) -> tuple[str, ...]:
        """Those of them that are viruses."""
        return self.classes[1:]

    @property
    def rule(self) -> str:
        """How rows decide for their record: as in VirNucPro."""
        return BEST_FRAME

    @property
    def held_out(self) -> list[HeldOut]:
        """How right it was on the test part, or where there is none, the validation part."""
        for part in (PARTS[TEST], PARTS[VALIDATION]):
            found = self.metrics.get(part, {}).get("record")
            if found is not None:
                return [HeldOut(f"records of the {part} part", found["count"], found["accuracy"], found["ece"])]
        return []

    @property
    def balanced(self) -> bool:
        """Not so: its probabilities are as in the data that it was trained on."""
        return False

    @property
    def calibrated(self) -> str:
        """How log-odds become a probability."""
        return self.calibration.kind

    def probability(
        self, margin: Float64[np.ndarray, "n"], _length: Int64[np.ndarray, "n"] | None = None
    ) -> Float64[np.ndarray, "n"]:
        """Calibrated probability of log-odds, the same at every length."""
        return self.calibration.apply(margin)

    def __str__(self) -> str:
        encoders = ", ".join(f"{part} by {identity.get('name')}" for part, identity in self.encoders.items())
        return f"{self.layout}; chunk {self.chunk}; {encoders}"

    def model(self) -> MLPClassifier:
        """The network, in evaluation mode, on the CPU."""
        hidden = self.weights["hidden.weight"].shape[0] if "hidden.weight" in self.weights else 0
        network = MLPClassifier(self.layout.width, hidden)
        try:
            network.load_state_dict(dict(self.weights), strict=True)
        except RuntimeError as error:
            raise FeatureError(f"the checkpoint's weights are not those of its network: {error}") from error
        return network.eval()

    def scorer(self, device: str = "auto") -> Scorer:
        """Make what gives rows their scores."""
        return Scorer(self, device)

    def require(self, layout: FeatureLayout, encoders: Mapping[str, Mapping[str, Any]], chunk: int, where: str) -> None:
        """Make sure that rows are of the kind that it was trained on, as ``Classifier.require`` says."""
        require_kind(self, layout, encoders, chunk, where)

    def write(self, path: Path, *, exclusive: bool = False) -> None:
        """Write the checkpoint durably, in place of what is there; with ``exclusive`` the first writer wins.

        Raises:
            FileExistsError: ``exclusive`` and the file is there.
            StorageError: the disk is full or cannot be written.
        """
        about = {
            **{name: getattr(self, name) for name in _PLAIN},
            "layout": json.loads(self.layout.to_json()),
            "calibration": asdict(self.calibration),
            "presets": {name: asdict(preset) for name, preset in self.presets.items()},
            "trust": self.trust.to_json(),
        }
        content = {
            "format": f"{_FORMAT}/{_VERSION}",
            "about": json.dumps(about, sort_keys=True),
            "weights": {name: tensor.detach().cpu().clone() for name, tensor in sorted(self.weights.items())},
        }
        if self.agreement is not None:
            content["agreement"] = self.agreement.to_tensors()
        save_tensors(path, content, exclusive=exclusive)

    @classmethod
    def load(cls, path: Path | str) -> Checkpoint:
        """Read a checkpoint; nothing in the file can run.

        Raises:
            FeatureError: the file is none, is damaged, is of a later version, or is VirNucPro's own.
            StorageError: it cannot be read.
        """
        path = Path(path)
        content = _read(path)
        version = _version(content, path)
        if version != _VERSION:
            raise FeatureError(
                f"is a checkpoint of format {version}, this vnp reads format {_VERSION}: use the vnp that wrote it, "
                "or a later one",
                path=path,
            )
        try:
            about, kinds = parse_json(content["about"]), get_type_hints(cls)
            loaded = cls(
                weights={str(name): tensor for name, tensor in content["weights"].items()},
                layout=FeatureLayout.from_json(json.dumps(about["layout"])),
                calibration=Calibration.from_dict(about["calibration"]),
                # What was written before there were any has none.
                presets=presets_from_json(about.get("presets", {})),
                trust=Trust.from_json(about.get("trust")),
                agreement=Agreement.from_tensors(content["agreement"]) if "agreement" in content else None,
                **{name: from_json(kinds[name], about[name]) for name in _PLAIN},
            )
            if (
                loaded.chunk < 1
                or not 0 < loaded.threshold < 1
                or not all(isinstance(one, str) for one in loaded.classes)
            ):
                raise ValueError("its chunk, threshold or classes cannot be")
            loaded.model()
        except (KeyError, TypeError, ValueError, AttributeError, FeatureError, LayoutError) as error:
            raise FeatureError(f"is a damaged checkpoint ({error}): train it anew", path=path) from error
        return loaded


def _read(path: Path) -> Any:
    try:
        content = read_regular(path)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    try:
        return load_tensors(content)
    except Exception as error:
        # Damaged bytes make torch raise all kinds of errors.
        if VIRNUCPRO_CLASS in str(error):
            raise FeatureError(
                "is a checkpoint of VirNucPro: a whole pickled program object, which vnp does not load because such a "
                "file can run anything. Take the numbers out of it with: "
                f"python -m jobs.convert {path} --chunk 300 --out {path.with_name(path.stem + '_vnp.pth')} "
                "(--chunk 500 for the model of 500 bases)",
                path=path,
            ) from error
        raise FeatureError(
            "is no checkpoint of vnp, or a damaged one; nothing in it was run. Give a .pth that jobs.train or "
            "jobs.convert wrote",
            path=path,
        ) from error


def _version(content: Any, path: Path) -> int:
    name, _, number = str(content.get("format") if isinstance(content, dict) else "").partition("/")
    if name != _FORMAT or not number.isdecimal():
        raise FeatureError("holds tensors, but is no checkpoint that jobs.train or jobs.convert wrote", path=path)
    return int(number)


_ROWS_AT_ONCE = 1_024


class Scorer:
    """A classifier that is ready to score, on ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.

    Raises:
        UsageError: there is no such device here.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.device = choose_device(device)
        self._checkpoint = checkpoint
        self._network = checkpoint.model().to(self.device)

    def probability(self, rows: Float[np.ndarray, "n width"]) -> Float64[np.ndarray, "n"]:
        """Calibrated probability of viral of each row."""
        found = margins(self.logits(rows), self._checkpoint.kinds, self._checkpoint.viral)
        return self._checkpoint.probability(found)

    def logits(self, rows: Float[np.ndarray, "n width"]) -> Float32[np.ndarray, "n k"]:
        """What the network says of each row, a number for each class.

        Rows go through it so many at a time, the last ones filled up, because a product's last bits depend on its
        shape: so a row's numbers do not depend on how many others there are.
        """
        return in_batches(self._network, rows, self._checkpoint.layout.width, self.device)

    def novelty(self, rows: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n"]:
        """How far each row is from what the classifier was trained on; NaN where that was not kept."""
        return distances(self._checkpoint.trust.novelty, rows)


def in_batches(
    network: torch.nn.Module, rows: Float[np.ndarray, "n width"], width: int, device: torch.device
) -> Float32[np.ndarray, "n k"]:
    """Logits of rows, in batches of one shape; FeatureError where they are of another width or hold NaN or infinity."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise FeatureError(f"the classifier reads rows of {width} numbers, these have {rows.shape[1:]}")
    if not all_finite(rows):
        raise FeatureError("a row holds NaN or infinity and cannot be scored")
    found = []
    with torch.inference_mode():
        for low in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
            some = rows[low : low + _ROWS_AT_ONCE]
            batch = np.zeros((_ROWS_AT_ONCE, width), rows.dtype)
            batch[: len(some)] = some
            logits = network(torch.from_numpy(batch).to(device).float())
            found.append(logits[: len(some)].float().cpu().numpy())
    return np.concatenate(found)
