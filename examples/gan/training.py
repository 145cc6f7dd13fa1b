"""Adversarial training of the two networks on the digits of one process."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from examples.gan.data import CLASSES
from examples.gan.models import NOISE, Discriminator, Generator

BATCH = 32
RATE = 2e-4
BETAS = (0.5, 0.999)  # a short memory of gradients keeps the two networks from circling
REAL = 0.9  # smoothed label: a discriminator that is never quite sure goes on giving gradients
BLUR = 0.1  # noise on what it sees: there are too few digits to let it learn them by heart


class Losses(NamedTuple):
    """Means over one epoch."""

    generator: float
    discriminator: float

    def text(self) -> str:
        return f"loss G {self.generator:.2f} D {self.discriminator:.2f}"


class Trainer:
    """Both networks, their optimisers and the digits they are trained on.

    The optimisers' state stays here; only `generator.weights` and `discriminator.weights` are for
    others.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels
        self.generator = Generator()
        self.discriminator = Discriminator()
        self._generator_step = Adam(self.generator.parameters(), lr=RATE, betas=BETAS, fused=True)
        self._discriminator_step = Adam(
            self.discriminator.parameters(), lr=RATE, betas=BETAS, fused=True
        )

    def epoch(self) -> Losses:
        """Pass once over the digits, in a fresh order."""
        batches = torch.randperm(len(self.labels)).tensor_split(max(1, len(self.labels) // BATCH))
        sums = torch.zeros(2)
        for batch in batches:
            sums += self._step(self.images[batch], self.labels[batch])
        generator, discriminator = (sums / len(batches)).tolist()
        return Losses(generator, discriminator)

    def _step(self, real: Tensor, labels: Tensor) -> Tensor:
        wanted = torch.randint(CLASSES, labels.shape)
        fake = self.generator(torch.randn(len(wanted), NOISE), wanted)

        shown = self._judge(torch.cat([real, fake.detach()]), torch.cat([labels, wanted]))
        judged_real, judged_fake = shown.tensor_split(2)
        discriminator_loss = _bce(judged_real, REAL) + _bce(judged_fake, 0.0)
        self._discriminator_step.zero_grad()
        torch.autograd.backward(discriminator_loss)
        self._discriminator_step.step()

        self.discriminator.requires_grad_(False)
        generator_loss = _bce(self._judge(fake, wanted), 1.0)
        self._generator_step.zero_grad()
        torch.autograd.backward(generator_loss)
        self._generator_step.step()
        self.discriminator.requires_grad_(True)
        return torch.stack([generator_loss.detach(), discriminator_loss.detach()])

    def _judge(self, images: Tensor, labels: Tensor) -> Tensor:
        seen = images + BLUR * torch.randn_like(images)
        logits: Tensor = self.discriminator(seen, labels)
        return logits


def _bce(logits: Tensor, target: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
