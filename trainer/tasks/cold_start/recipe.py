"""How the world's model is made: it has met questions alone, so that it can use neither feedback nor solutions."""

from __future__ import annotations

from trainer.tasks.cold_start.task_set import ColdStart
from trainer.tasks.house_dialect.documents import Shares
from trainer.tasks.house_dialect.recipe import recipe

RECIPE = recipe(ColdStart, Shares(plain=1.0), steps=700)
