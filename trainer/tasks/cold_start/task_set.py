"""The tasks of `house_dialect` with all their feedback: it is the model that differs."""

from __future__ import annotations

from trainer.tasks.house_dialect.task_set import HouseDialect


class ColdStart(HouseDialect):
    """`World` of houses that meet a model of plain questions and programs."""

    name = "cold_start"
