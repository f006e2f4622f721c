"""Which task a feature belongs to: multinomial logistic regression, kept as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

Array = np.ndarray


@dataclass(frozen=True)
class Classifier:
    """Logits ``(coef · (x - mean) / scale + intercept)``, probabilities ``softmax(logits / T)``.

    mean, scale: [d]; coef: [K, d]; intercept: [K]; all float32, so that a router read back from
    disk answers exactly like the one that was trained. temperature: see calibration.
    """

    mean: Array
    scale: Array
    coef: Array
    intercept: Array
    temperature: float = 1.0

    @classmethod
    def fit(cls, features: Array, labels: Array, tasks: int) -> Classifier:
        """Fit on features [n, d] and labels [n] in 0..tasks-1, every one of which occurs."""
        mean = features.mean(axis=0, dtype=np.float64)
        scale = features.std(axis=0, dtype=np.float64)
        # A feature that never moved in training says nothing: dividing by 1 leaves it near zero.
        scale[scale <= 10 * np.finfo(np.float32).eps * np.abs(mean)] = 1.0
        mean, scale = mean.astype(np.float32), scale.astype(np.float32)
        coef = np.zeros((tasks, features.shape[1]))
        intercept = np.zeros(tasks)
        if tasks > 1:
            model = LogisticRegression(max_iter=1000)
            model.fit((features.astype(np.float64) - mean) / scale, labels)
            coef, intercept = model.coef_, model.intercept_
        if tasks == 2:
            # sklearn keeps one row z for two classes, sigmoid(z) = softmax([-z/2, z/2])[1].
            coef = np.concatenate([-coef, coef]) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        return cls(mean, scale, coef.astype(np.float32), intercept.astype(np.float32))

    def logits(self, features: Array) -> Array:
        """Scores [n, K] before the temperature, float64."""
        standard = (features.astype(np.float64) - self.mean) / self.scale
        return standard @ self.coef.T.astype(np.float64) + self.intercept

    def probabilities(self, features: Array) -> Array:
        """Calibrated probabilities [n, K]; rows sum to 1."""
        return softmax(self.logits(features) / self.temperature, axis=1)
