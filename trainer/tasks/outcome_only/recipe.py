"""How the world's model is made: it has met questions and worked solutions, never feedback."""

from __future__ import annotations

from trainer.tasks.house_dialect.documents import Shares
from trainer.tasks.house_dialect.recipe import recipe
from trainer.tasks.outcome_only.task_set import OutcomeOnly

RECIPE = recipe(OutcomeOnly, Shares(plain=0.4, shown=0.6), steps=1500)
