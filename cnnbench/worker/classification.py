"""The classes that a runtime puts a data set's images into. Nothing here imports torch."""

import sys
import time
from pathlib import Path

import numpy as np

from cnnbench.errors import InputError, WorkerError
from cnnbench.records.artifact import read_facts
from cnnbench.records.task_messages import Classified, StartClassifying
from cnnbench.worker.data.preparation import Preparation
from cnnbench.worker.reference.parity import Array, part, several, tiled
from cnnbench.worker.runtimes.registry import class_of

LOGIT_AXES = 2


class Classification:
    """Images in order, in batches of the case's size."""

    def __init__(self, request: StartClassifying, threads: int) -> None:
        """Load the artifact. Raises WorkerError if the runtime cannot."""
        folder, self.case = Path(request.folder), request.case
        facts = read_facts(folder)
        if facts is None:
            raise WorkerError(f"no finished artifact in {folder}")
        self.images = np.load(request.images, mmap_mode="r")
        self.prepare = Preparation(request.scaling, facts.input_shape)
        self.next = 0
        kind = class_of(self.case.runtime, self.case.workload)
        self.runtime = kind(self.case, facts, folder, self._batch(), threads)

    def _batch(self) -> Array:
        """The next images, and some of them again where the data set ends in the middle of a batch."""
        images = self.prepare(self.images[self.next : self.next + self.case.batch])
        return several(tiled(images, self.case.batch))[0]

    def advance(self, seconds: float) -> Classified:
        """The classes of the next images, for about so long. Raises InputError for what are no finite logits."""
        end, found = time.monotonic() + seconds, list[int]()
        while self.next < len(self.images) and (not found or time.monotonic() < end):
            left = min(self.case.batch, len(self.images) - self.next)
            logits = several(part(self.runtime.predict(self._batch()), slice(left)))[0]
            if logits.ndim != LOGIT_AXES:
                shape = "x".join(map(str, logits.shape[1:]))
                raise InputError(f"{self.case.spec.label}: expected logits, one for each class; it puts out {shape}")
            if not np.isfinite(logits).all():
                raise InputError(f"{self.case.spec.label}: what it puts out in {self.case.runtime} is not finite")
            found += logits.argmax(1).tolist()
            self.next += left
        return Classified(classes=found, is_torch_in_process="torch" in sys.modules)
