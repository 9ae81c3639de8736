"""The network: VirNucPro's multilayer perceptron (Li et al., Briefings in Bioinformatics 2025, bbaf224)."""

from __future__ import annotations

import torch
from jaxtyping import Float32

HIDDEN = 512
CLASSES = ("host", "viral")
"""Names of the outputs, in order; VirNucPro calls them others and virus."""


class MLPClassifier(torch.nn.Module):
    """Linear, batch normalisation, ReLU, dropout, linear; Xavier-uniform weights, PyTorch's default biases."""

    def __init__(self, width: int, hidden: int = HIDDEN, dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(width, hidden)
        self.norm = torch.nn.BatchNorm1d(hidden)
        self.dropout = torch.nn.Dropout(dropout)
        self.output = torch.nn.Linear(hidden, len(CLASSES))
        torch.nn.init.xavier_uniform_(self.hidden.weight)
        torch.nn.init.xavier_uniform_(self.output.weight)

    def forward(self, features: Float32[torch.Tensor, "n width"]) -> Float32[torch.Tensor, "n 2"]:
        """Logits of host and viral for every row."""
        hidden = torch.relu(self.norm(self.hidden(features)))
        logits: torch.Tensor = self.output(self.dropout(hidden))
        return logits


def margin(logits: Float32[torch.Tensor, "n 2"]) -> Float32[torch.Tensor, "n"]:
    """Log-odds of viral against host: the softmax of two logits is the logistic function of their difference."""
    return logits[:, 1] - logits[:, 0]
