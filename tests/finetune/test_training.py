"""A training ends in a folder that works, gives the same bytes again, and survives being killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import vnp.finetune.loop
from tests.finetune.conftest import SMALL, recipe
from vnp.encoders.models.sixframe import KINDS, SixFrame
from vnp.encoders.spec import spec
from vnp.encoders.weights.folders import window_of
from vnp.encoders.windows import SixFrameEncoder
from vnp.errors import EncoderError, FeatureError, RunError, WeightsError
from vnp.finetune.crops import Crops, CropSampler, DeviceGenomes
from vnp.finetune.folder import CONFIG, METRICS, WEIGHTS, draw_training, read_folder, write_folder
from vnp.finetune.genomes import TRAIN, Genomes, save_genomes
from vnp.finetune.loop import losses, train, train_together, unit_loss
from vnp.finetune.measure import watch
from vnp.finetune.pace import LOG, STATE, Pace, learning_rate
from vnp.finetune.split import leave_out
from vnp.finetune.team import Team
from vnp.native.classifier import NativeClassifier

CPU = torch.device("cpu")
PACE = Pace(log=3, save=4, watch=6, windows=10)
TWO_GPUS = pytest.param(
    [torch.device("cuda", number) for number in range(2)],
    id="gpus",
    marks=[pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")],
)


def weights(network: SixFrame) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())


def test_learns_and_writes_a_folder_that_can_be_used(genomes: Genomes, tmp_path: Path) -> None:
    asked = recipe(steps=60, rate=5e-3, average=0.9, window=700)
    network = train(genomes, asked, tmp_path, CPU, pace=PACE)
    metrics = write_folder(tmp_path, network, DeviceGenomes(genomes, CPU), asked, count=30)
    draw_training(tmp_path / LOG, tmp_path / "training.png")
    assert metrics["windows"]["one"]["300"]["roc_auc"] > 0.95
    assert metrics == json.loads((tmp_path / METRICS).read_text())
    trained = read_folder(tmp_path)
    assert trained.trust.evidence is not None
    assert trained.window == NativeClassifier(tmp_path).chunk == window_of(spec("sixframe"), tmp_path) == 700
    encoder = SixFrameEncoder(trained.network)
    logits = encoder.logits(["AATTATATTA" * 30, "GCGGCCGCGC" * 30])
    assert logits[0, :2].max() > logits[0, 2:].max()
    assert logits[1, :2].max() < logits[1, 2:].max()
    assert (tmp_path / "training.png").stat().st_size > 1000


def test_same_seed_gives_same_bytes_and_another_does_not(genomes: Genomes, tmp_path: Path) -> None:
    """In two threads; of one, those of a training that was killed are compared."""
    made = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        made.append(weights(train(genomes, recipe(seed=seed, steps=6), tmp_path / name, CPU, pace=PACE)))
    torch.set_num_threads(before)
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_killed_training_goes_on_to_the_same_bytes(
    genomes: Genomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(set_aside={0.25: -50.0, 0.5: -50.0}, doubt=0.5, synonyms=0.5, made_up=0.3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = train(genomes, asked, tmp_path / "whole", CPU, pace=PACE)
    real = learning_rate

    def dying(step: int, asked: object) -> float:
        if step == 10:
            raise KeyboardInterrupt
        return real(step, asked)

    monkeypatch.setattr(vnp.finetune.loop, "learning_rate", dying)
    with pytest.raises(KeyboardInterrupt):
        train(genomes, asked, tmp_path / "killed", CPU, pace=PACE)
    monkeypatch.undo()
    again = train(genomes, asked, tmp_path / "killed", CPU, pace=PACE)
    assert weights(again) == weights(whole)
    logs = [
        [json.loads(line) for line in (tmp_path / name / LOG).read_text().splitlines()] for name in ("whole", "killed")
    ]
    assert [entry["step"] for entry in logs[0]] == [entry["step"] for entry in logs[1]]


def test_state_of_another_training_is_refused(genomes: Genomes, tmp_path: Path) -> None:
    train(genomes, recipe(steps=4), tmp_path, CPU, pace=PACE)
    with pytest.raises(FeatureError, match="another training"):
        train(genomes, recipe(steps=5), tmp_path, CPU, pace=PACE)
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(FeatureError, match="damaged"):
        train(genomes, recipe(steps=4), tmp_path, CPU, pace=PACE)


def test_loss_that_is_no_number_stops_the_training(genomes: Genomes, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="not a number"):
        train(genomes, recipe(rate=1e30), tmp_path, CPU, pace=PACE)


def test_loss_asks_nothing_about_kinds_that_are_not_known() -> None:
    logits = torch.randn(3, len(KINDS), requires_grad=True)
    bases, viral, used = torch.zeros(3, 10, dtype=torch.uint8), torch.tensor([True, False, False]), torch.ones(3) > 0
    unit = torch.arange(3)
    everything = Crops(bases, torch.tensor([0b11, 0b1111100, 0b1111100], dtype=torch.uint8), viral, used, unit)
    total, binary = losses(logits, everything, recipe(doubt=0.0))
    assert total.item() == pytest.approx(binary.item(), abs=1e-6)
    one = everything._replace(kinds=torch.tensor([0b01, 0b0001100, 0b0000100], dtype=torch.uint8))
    total, binary = losses(logits, one, recipe(doubt=0.0))
    log = torch.log_softmax(logits, 1)
    viruses, hosts = log[:, :2].logsumexp(1), log[:, 2:].logsumexp(1)
    expected = viruses[0] - log[0, 0] + hosts[1] - log[1, 2:4].logsumexp(0) + hosts[2] - log[2, 2]
    assert total.item() == pytest.approx(binary.item() + 0.3 * expected.item() / 3, rel=1e-5)
    unused = everything._replace(used=torch.tensor([True, False, False]))
    losses(logits, unused, recipe(doubt=0.0))[0].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[1:].abs().max() == 0
    assert logits.grad[0].abs().max() > 0


def test_units_are_asked_of_crops_that_have_one_and_are_used() -> None:
    bases, kinds = torch.zeros(3, 10, dtype=torch.uint8), torch.ones(3, dtype=torch.uint8)
    crops = Crops(bases, kinds, torch.ones(3) > 0, torch.tensor([True, True, False]), torch.tensor([2, -1, 0]))
    logits = torch.randn(3, 4)
    assert unit_loss(logits, crops).item() == pytest.approx(-torch.log_softmax(logits, 1)[0, 2].item(), rel=1e-5)
    assert unit_loss(logits, crops._replace(used=torch.zeros(3) > 0)).item() == 0


def test_a_prokaryote_that_looks_viral_counts_less_and_a_virus_that_looks_like_a_host_does_not() -> None:
    logits = torch.zeros(3, len(KINDS))
    logits[:, 0] = 4.0
    bases, used = torch.zeros(3, 10, dtype=torch.uint8), torch.ones(3) > 0
    kinds = torch.tensor([0b01, 0b0000100, 0b0010000], dtype=torch.uint8)
    crops = Crops(bases, kinds, torch.tensor([True, False, False]), used, torch.arange(3))
    asked = recipe(kind_weight=0.0, smoothing=0.0, doubt=0.5)
    host = 1 / (1 + math.exp(4.0 - math.log(5) + math.log1p(math.exp(-4.0))))
    weights = np.array([1.0, host**0.5, 1.0])
    each = -np.log([1 - host, host, host])
    assert losses(logits, crops, asked)[0].item() == pytest.approx((weights * each).sum() / weights.sum(), rel=1e-4)


@pytest.fixture(scope="module")
def sound(genomes: Genomes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_folder(folder, SixFrame(SMALL), DeviceGenomes(genomes, CPU), recipe(), count=20)
    read_folder(folder)
    return folder


@pytest.mark.parametrize("damage", ["weights", "config", "kinds", "missing", "calibration", "window"])
def test_damaged_folder_is_refused(sound: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / CONFIG).read_text())
    if damage == "weights":
        content = bytearray((tmp_path / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (tmp_path / WEIGHTS).write_bytes(content)
    elif damage == "missing":
        (tmp_path / WEIGHTS).unlink()
    elif damage == "config":
        (tmp_path / CONFIG).write_text("{")
    elif damage == "kinds":
        (tmp_path / CONFIG).write_text(json.dumps({**config, "kinds": ["cat"]}))
    elif damage == "window":
        (tmp_path / CONFIG).write_text(json.dumps({**config, "window": "2000"}))
    else:
        (tmp_path / CONFIG).write_text(json.dumps({**config, "calibration": {**config["calibration"], "slopes": []}}))
    with pytest.raises(WeightsError):
        read_folder(tmp_path)


def test_command_writes_a_folder_and_does_not_write_over_it(sheet: Path, tmp_path: Path) -> None:
    from jobs.finetune import main

    plain = ["--steps", "2", "--bases", "12000", "--no-set-aside", "--device", "cpu"]
    short = CliRunner().invoke(main, [str(sheet), "--out", str(tmp_path / "m"), *plain])
    assert short.exit_code == 1, short.output
    assert "5000" in short.output  # the genomes of this test are shorter than the longest crops
    assert np.load(tmp_path / "m/genomes.npz")["starts"][-1] == 36 * 3002
    several = CliRunner().invoke(main, [str(sheet), "--out", str(tmp_path / "n"), *plain, "--gpus", "2"])
    assert several.exit_code == 2, several.output
    assert "--gpus 2: torch sees 0 GPUs that it may use here" in several.output
    assert not (tmp_path / "n").exists()


def test_a_group_left_out_as_a_whole_is_measured_by_itself(genomes: Genomes, tmp_path: Path) -> None:
    network, asked = SixFrame(SMALL), recipe(window=700)
    seen = [
        write_folder(tmp_path, network, DeviceGenomes(one, CPU), asked, count=20)["reliability"].keys()
        for one in (genomes, leave_out(genomes, ["plasmid"]))
    ]
    assert seen[0] == seen[1] == {"phage", "bacteria", "plasmid"}
    reliability = read_folder(tmp_path).trust.reliability
    assert reliability is not None
    assert reliability.unseen.keys() == {"plasmid"}
    assert "plasmid" in reliability.sentences()[-1]


class TestTogether:
    """Processes on a CPU, as on GPUs."""

    @pytest.mark.parametrize("devices", [pytest.param([CPU, CPU], id="cpu"), TWO_GPUS])
    def test_learns_and_goes_on_to_the_same_bytes(
        self, devices: list[torch.device], genomes: Genomes, tmp_path: Path
    ) -> None:
        packed = tmp_path / "genomes.npz"
        heard: list[str] = []
        steps: list[tuple[int, int]] = []
        save_genomes(genomes, packed)
        asked = recipe(steps=60, rate=5e-3, average=0.9, set_aside={0.95: -50.0}, made_up=0.1)
        pace = replace(PACE, watch=100, told=lambda step, of: steps.append((step, of)))
        folders = [tmp_path / name for name in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
        train_together(packed, (), asked, folders[0], devices, pace=pace, say=heard.append)
        assert steps[-1] == (60, 60)
        assert any("set aside" in line for line in heard)
        entries = [json.loads(line) for line in (folders[0] / LOG).read_text().splitlines()]
        assert [entry["step"] for entry in entries if "loss" in entry] == list(range(3, 61, 3))

        def kill(line: str) -> None:
            if line.startswith("step 9:"):
                multiprocessing.active_children()[-1].kill()

        with pytest.raises(RunError, match="killed by signal 9; the same command goes on where it was"):
            train_together(packed, (), asked, folders[1], devices, pace=PACE, say=kill)
        shutil.copytree(folders[1], tmp_path / "alone")
        train_together(packed, (), asked, folders[1], devices, pace=PACE)
        # What is left to do by itself is to read the last state.
        made = [train(genomes, asked, folder, CPU, pace=PACE) for folder in folders]
        assert weights(made[0]) == weights(made[1])
        alone = train(genomes, asked, tmp_path / "alone", CPU, pace=PACE)
        for network in (made[0], alone):
            assert watch(network, DeviceGenomes(genomes, CPU), 30, 700)["300"] > 0.95

    def test_an_error_of_one_is_the_error(self, genomes: Genomes, tmp_path: Path) -> None:
        save_genomes(genomes, tmp_path / "genomes.npz")
        with pytest.raises(EncoderError, match="not a number any more"):
            train_together(tmp_path / "genomes.npz", (), recipe(rate=1e30), tmp_path, [CPU, CPU], pace=PACE)


def test_members_share_a_step(genomes: Genomes) -> None:
    held, asked = DeviceGenomes(genomes, CPU), recipe()
    whole = CropSampler(held, TRAIN, asked).draw(3)
    parts = [CropSampler(held, TRAIN, asked, Team(rank, 2)).draw(3) for rank in range(2)]
    assert parts[0].bases.shape == parts[1].bases.shape == (len(whole.bases) // 2, whole.bases.shape[1])
    assert not torch.equal(parts[0].bases, parts[1].bases)
