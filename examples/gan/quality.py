"""One figure for how good a generator is."""

import torch
from sklearn.neighbors import KNeighborsClassifier

from examples.gan import data
from examples.gan.models import Generator

PER_CLASS = 100


def share_read_as_asked(generator: Generator) -> float:
    """Draw digits and return the share whose nearest real digit is of the class asked for.

    It tells noise and wrong digits from right ones; it does not tell whether they vary.
    """
    images, labels = data.load()
    reader = KNeighborsClassifier(n_neighbors=1).fit(images.numpy(), labels.numpy())
    asked = torch.arange(data.CLASSES).repeat(PER_CLASS)
    read = reader.predict(generator.draw(asked).numpy())
    return float((read == asked.numpy()).mean())
