"""ONNX Runtime on the exported training step, in a process that never imports torch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import STEP, WEIGHTS, read_step
from cnnbench.records.record import ArtifactFacts, Parity
from cnnbench.suite.case import Case
from cnnbench.suite.optimizer import TIMED_LEARNING_RATE
from cnnbench.worker.reference.labels import labels_for, proof_images
from cnnbench.worker.reference.parity import Array, compare_losses
from cnnbench.worker.runtimes.ort import Ort, assigned_nodes
from cnnbench.worker.runtimes.step_session import StepSession, step_options
from cnnbench.worker.timing.measure import Phases


class OrtTraining(Ort):
    """Timed: one run of the graph of the whole step; data loading is left out."""

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Array, threads: int) -> None:
        step = read_step(folder)
        if step is None or step.error is not None:
            raise WorkerError(f"the training step could not be exported: {step.error if step else 'it is not there'}")
        super().__init__(case, folder / STEP, threads, step_options())
        self.facts, self.images, self.classes = step, batch, facts.classes
        self.labels = labels_for(case.batch, facts.classes, case.spec.seed)
        self.weights = load_file(folder / WEIGHTS)
        self.steps = StepSession(self.session, case.device)
        self._begin()

    def _begin(self) -> None:
        self.steps.begin(self.weights, TIMED_LEARNING_RATE, drop=True)
        self.steps.bind(self.images, self.labels)

    def first_call(self, reference_inputs: Array) -> None:
        """A step on the case's own batch."""
        self.steps.step()

    def own_proof(self, reference_inputs: Array) -> list[Parity]:
        """The losses of consecutive steps on some reference inputs, from the artifact's weights, against float64's.

        A wrong gradient or update shows in the second. The case's own state begins anew afterwards.
        """
        self.steps.begin(self.weights, TIMED_LEARNING_RATE, drop=False)
        images = proof_images(reference_inputs, self.facts.first_image)
        self.steps.bind(images, labels_for(len(images), self.classes, self.case.spec.seed))
        losses = []
        for _ in self.facts.losses:
            self.steps.step()
            losses.append(self.steps.loss)
        self._begin()
        found = compare_losses(f"{self.case.runtime} losses", losses, self.facts.losses, self.facts.loss_limit)
        return [found, *self.facts.parity]

    def predict(self, images: Array) -> Array:
        """Raises WorkerError: a training step has a loss and no logits."""
        raise WorkerError("a training step puts out no logits")

    def put_out(self) -> Any:
        """The loss."""
        return self.steps.loss_value

    def operators(self) -> dict[str, int]:
        """How many nodes of each operator run, where ONNX Runtime says."""
        return dict(Counter(operator for _, operator in assigned_nodes(self.session)).most_common())

    def phases(self) -> Phases:
        """One phase: the step."""
        return {"step": self.steps.step}

    def result(self) -> Array:
        """The loss () of the last step."""
        return np.asarray(self.steps.loss)
