"""Makes files as VirNucPro saves them: whole objects of a class MLPClassifier that lives in ``__main__``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Runs as a program of its own, because the class has to be in __main__.
PROGRAM = """
import sys
import torch

class MLPClassifier(torch.nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.hidden_layer = torch.nn.Linear(width, 512)
        self.bn1 = torch.nn.BatchNorm1d(512)
        self.output_layer = torch.nn.Linear(512, classes)
        self.dropout = torch.nn.Dropout(0.5)
        self.init_weights()

    def init_weights(self):
        torch.nn.init.xavier_uniform_(self.hidden_layer.weight)

    def forward(self, x):
        return self.output_layer(self.dropout(torch.relu(self.bn1(self.hidden_layer(x)))))

folder = sys.argv[1]
torch.manual_seed(3)
for width in (3328, 2048, 1000):
    network = MLPClassifier(width, 2)
    network(torch.randn(64, width))
    network.eval()
    rows = torch.randn(16, width)
    expected = torch.softmax(network(rows), dim=1).detach()
    torch.save({"rows": rows, "expected": expected}, f"{folder}/expected_{width}.pt")
    torch.save(network, f"{folder}/zip_{width}.pth")
    torch.save(network, f"{folder}/legacy_{width}.pth", _use_new_zipfile_serialization=False)
    torch.save(network.state_dict(), f"{folder}/state_{width}.pth")
torch.save(MLPClassifier(3328, 3), f"{folder}/zip_three_classes.pth")
network = MLPClassifier(3328, 2)
network.bn1 = torch.nn.Identity()
torch.save(network, f"{folder}/zip_other_layers.pth")
network = MLPClassifier(3328, 2)
network.output_layer.bias.data[0] = float("nan")
torch.save(network, f"{folder}/zip_nan.pth")
"""


def save_all(folder: Path) -> None:
    """Write files of several widths, in both of torch's formats, with what the networks say of some rows."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, timeout=120, env=environment)
