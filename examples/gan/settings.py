"""What a run is asked to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    epochs: int = 200
    workers: int = 4
    sync_every: int = 5
    capacity: str = "64MiB"
    seed: int = 0

    def syncs_after(self, epoch: int) -> bool:
        """Whether workers exchange weights after this epoch: always after the last one."""
        return epoch % self.sync_every == 0 or epoch == self.epochs
