"""The two networks: about 5 MB of float32 weights each, all of them in one flat vector.

Both are told which digit is meant, so that a picture can show each of the ten. The vector holds
the running statistics of batch normalisation too: it is all that there is to exchange and average.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.gan.data import CLASSES, PIXELS

Weights: TypeAlias = npt.NDArray[np.float32]

NOISE = 64  # random numbers that one generated digit is made from
LABEL = 3.0  # the one in a one-hot label: as 1 it is lost among the noise for many epochs


class Network(nn.Module):
    """Layers whose parameters and statistics are views into `weights`: one copy moves them all."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        parts = [t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()]
        flat = torch.cat([part.detach().flatten() for part in parts])
        views = torch.split(flat, [part.numel() for part in parts])
        for part, view in zip(parts, views, strict=True):
            part.data = view.view_as(part)
        self.weights: Weights = flat.numpy()

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        wanted = functional.one_hot(labels, CLASSES) * LABEL
        outputs: Tensor = self.layers(torch.cat([inputs, wanted], dim=1))
        return outputs


class Generator(Network):
    """Noise and a label in, an image out: PIXELS values of -1 to 1."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                nn.Linear(NOISE + CLASSES, 512),
                nn.BatchNorm1d(512),
                nn.LeakyReLU(0.2),
                nn.Linear(512, 1024),
                nn.BatchNorm1d(1024),
                nn.LeakyReLU(0.2),
                nn.Linear(1024, 640),
                nn.BatchNorm1d(640),
                nn.LeakyReLU(0.2),
                nn.Linear(640, PIXELS),
                nn.Tanh(),
            )
        )

    @torch.no_grad()
    def draw(self, labels: Tensor) -> Tensor:
        """Return one image for each label, the same ones for the same weights."""
        self.eval()
        noise = torch.randn(len(labels), NOISE, generator=torch.Generator().manual_seed(0))
        images: Tensor = self(noise, labels)
        return images


class Discriminator(Network):
    """An image and a label in, one logit out: positive where it takes the image for a real one."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                nn.Linear(PIXELS + CLASSES, 1024),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.3),
                nn.Linear(1024, 1088),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.3),
                nn.Linear(1088, 1),
            )
        )
