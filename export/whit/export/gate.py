"""The accuracy gate: an int8 package that loses more than allowed gets its costliest layers back in float32, or is refused.

The loss is in points of rank agreement with the float32 graph on the calibration text (``report.rank_agreement``): how much
of the order "which texts are more alike" is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from whit.contract.manifest import LinearScheme
from whit.export.calibrate import Calibration
from whit.export.checkpoint import FloatArray
from whit.export.embed import embed
from whit.export.errors import CheckpointError
from whit.export.linear import Plan
from whit.export.report import rank_agreement

# One layer's share is told from another's on fewer texts than the loss itself needs.
_SENSITIVITY_TEXTS = 64
_NAMED = 3  # layers that a refusal names


@dataclass(frozen=True, slots=True)
class Gate(Calibration):
    """What int8 plans for an encoder are measured against: the vectors of its checkpoint's float32 graph."""

    wanted: FloatArray  # [len(sequences), dimension_count]

    def loss(self, plan: Plan) -> float:
        """Points that ``plan`` loses."""
        return self._loss(plan, 1)

    def sensitivities(self, plan: Plan) -> dict[str, float]:
        """Points that each linear layer of ``plan`` loses where all others are float32, by name."""
        step = max(1, len(self.sequences) // _SENSITIVITY_TEXTS)
        found: dict[str, float] = {}
        for name, scheme in plan.schemes.items():
            found[name] = round(self._loss(Plan({name: scheme}), step), 6)
            self.progress("sensitivity (layers)", len(found), len(plan.schemes))
        return found

    def hold(
        self, plan: Plan, linears: Sequence[LinearScheme], costs: Mapping[str, float], max_loss: float
    ) -> tuple[Plan, list[LinearScheme]]:
        """The plan with as few of the costliest layers in float32 as keep the loss within ``max_loss``: 1, 2, 4 ... half.

        Raises:
            CheckpointError: not even half of them do. Names the costliest and says what to do.
        """
        loss = lost = self.loss(plan)
        costliest = sorted(costs, key=lambda name: -costs[name])
        count = 1
        while lost > max_loss and count <= len(costliest) // 2:
            spared = set(costliest[:count])
            less = replace(plan, schemes={n: scheme for n, scheme in plan.schemes.items() if n not in spared})
            lost = self.loss(less)
            if lost <= max_loss:
                changed = [LinearScheme(e.name, "float32", 0.0) if e.name in spared else e for e in linears]
                return less, changed
            count *= 2
        if lost <= max_loss:
            return plan, list(linears)
        named = ", ".join(f"{name} ({costs[name]:.2f})" for name in costliest[:_NAMED])
        raise CheckpointError(
            f"int8 loses {loss:.2f} points of rank agreement on the calibration text, max_loss is {max_loss:g}; with the "
            f"costliest layers in float32 it is still {lost:.2f}. Costliest: {named}. Calibrate on text of the kind you "
            "will embed, allow more loss, or export as float32"
        )

    def _loss(self, plan: Plan, step: int) -> float:
        """Points that ``plan`` loses on every ``step``-th text."""
        found = embed(self.weights, self.head, self.sequences[::step], plan)
        return 100 - rank_agreement(self.wanted[::step], found)
