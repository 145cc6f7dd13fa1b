"""What workers and server tell each other; weights never travel here, only refs to them."""

from typing import NamedTuple, TypeAlias

from examples.gan.training import Losses
from refstore import ObjectRef

GENERATOR = "generator"  # the name under which the store holds the average of that network
DISCRIMINATOR = "discriminator"


class Ready(NamedTuple):
    """Worker to server, once: attached to the store and loaded with the common first weights."""


class EpochDone(NamedTuple):
    """Worker to server, after every epoch."""

    losses: Losses


class Offer(NamedTuple):
    """Worker to server, at every sync: refs to its weights, which are the server's to delete."""

    refs: dict[str, ObjectRef]


class Failed(NamedTuple):
    """Worker to server: it goes no further."""

    reason: str
    traceback: str


class Go(NamedTuple):
    """Server to worker: all are ready, or the averages are out; load them and train on."""


Message: TypeAlias = Ready | EpochDone | Offer | Failed
