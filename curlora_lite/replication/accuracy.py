"""Accuracy as an `evaluate.Metric`, which works without a network."""

import datasets
import evaluate

from .. import scoring


class Accuracy(evaluate.Metric):
    """Accuracy with what it takes to judge it (see `scoring.accuracy`).

    `compute(predictions=..., references=..., classes=k)` -> `accuracy`, `n`, `majority` and
    `predicted`.
    """

    def _info(self):
        columns = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        said = "Accuracy beside the majority class and the predicted classes."
        return evaluate.MetricInfo(said, citation="", features=datasets.Features(columns))

    def _compute(self, predictions, references, classes):
        return scoring.accuracy(predictions, references, classes)
