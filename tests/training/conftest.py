"""Small labelled data and a student of the user's, for runs that take a second."""

import numpy as np
import pytest
import torch

from softlabels.sources import as_source

ROWS = 120


def table(**changes):
    """Columns of two separable classes with a split column; a change replaces a column, None drops it."""
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 2
    columns = {
        "x": (rng.normal(size=(ROWS, 3)) + 3 * labels[:, None]).astype(np.float32),
        "label": labels,
        "split": np.where(np.arange(ROWS) < 100, "train", "test"),
    }
    return {name: column for name, column in (columns | changes).items() if column is not None}


class Dropping(torch.nn.Module):
    """A student with dropout and a frozen layer."""

    def __init__(self, classes=2):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.frozen = torch.nn.Linear(3, 4).requires_grad_(False)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.frozen(x))))


@pytest.fixture
def data():
    return as_source(table())


@pytest.fixture
def student():
    return Dropping()


@pytest.fixture(scope="session")
def columns():
    return table


def weights(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.module.state_dict().items()}


@pytest.fixture
def weights_of():
    return weights
