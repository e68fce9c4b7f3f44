"""What a run looks at from its beginning to its end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch

from fold_lightning.probes.faces import FaceProbes
from fold_lightning.probes.gathering import Pool
from fold_lightning.probes.segments import Segments


@dataclass(frozen=True)
class Probes:
    """Inputs, and what is drawn from them.

    Attributes:
        pool: All of them.
        num_counted: Of how many, the first ones, codes are counted.
        segments: Between them; None if none are walked.
        faces: Around which faces are counted; None if they are not.
    """

    pool: Pool
    num_counted: int
    segments: Segments | None
    faces: FaceProbes | None

    @property
    def counted(self) -> Pool:
        """The inputs whose codes are counted, and their labels."""
        inputs, labels = self.pool
        return inputs[: self.num_counted], None if labels is None else labels[: self.num_counted]

    @cached_property  # every checkpoint asks for it
    def fingerprint(self) -> str:
        """The same for the same inputs, in another process too."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self.pool:
            if part is not None:
                digest.update(str((part.dtype, tuple(part.shape))).encode())
                digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
