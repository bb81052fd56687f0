"""What `/metrics` says of runs: the newest value of the figures that people watch, for Prometheus.

The learner and the collectors serve no HTTP; what they do stands in the run's files. A run is shown while it was
written to within the last hour, so that a scrape sees how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.dashboard.runs import RunFiles, RunsFolder

SHOWN_S = 3600.0
_SOURCE = "source/"
_LIFT = "_lift_nats"


class Figure(NamedTuple):
    """A gauge, and the key of the records of a kind that has its value."""

    gauge: str
    kind: str
    key: str
    help: str


FIGURES = (
    Figure("vpd_run_student_accuracy", "evaluation", "student_accuracy", "Held-out accuracy of the student."),
    Figure("vpd_run_teacher_accuracy", "evaluation", "teacher_accuracy", "Held-out accuracy of the teacher."),
    Figure("vpd_run_reward_mean", "step", "reward_mean", "Mean reward of the step's rollouts."),
    Figure("vpd_run_success_rate", "step", "success_rate", "Share of the step's rollouts that succeeded."),
    Figure("vpd_run_rows", "step", "rows", "Rollouts of the step."),
    Figure("vpd_run_rows_trained", "step", "rows_trained", "Rollouts that the step trained on."),
    Figure("vpd_run_rows_without_outcome", "step", "rows_without_outcome", "Rollouts whose outcome source failed."),
    Figure("vpd_run_margin", "step", "e_step/margin", "Implicit reward of successes above that of failures."),
    Figure("vpd_run_kl_nats", "step", "m_step/kl", "KL of student and teacher, a token."),
    Figure("vpd_run_entropy_nats", "step", "m_step/entropy", "Entropy of the student, a token."),
    Figure("vpd_run_response_tokens", "step", "m_step/length", "Mean length of a response."),
    Figure("vpd_run_gradient_norm", "step", "m_step/grad_norm", "Norm of the M-step's gradient, before clipping."),
    Figure("vpd_run_policy_lag", "step", "lag/mean", "How many versions old the policy was that sampled the step."),
    Figure("vpd_run_tokens_per_second", "timings", "tokens_per_s", "Response tokens of the step over its time."),
    Figure("vpd_run_step_seconds", "timings", "seconds/step", "Time of the step."),
    Figure("vpd_run_wait_seconds", "timings", "seconds/wait", "What of it the learner waited for rollouts."),
    Figure("vpd_run_queue_waiting", "timings", "queue/waiting", "Prompt groups in the queue that nobody has taken."),
    Figure("vpd_run_queue_pending", "timings", "queue/pending", "Prompt groups taken and not yet acknowledged."),
    Figure("vpd_run_remaining_seconds", "timings", "eta_s", "How long the rest of the run will take."),
)


class RunMetrics(Collector):
    """The runs below a folder; register it with a service's registry."""

    def __init__(self, folder: RunsFolder) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Every gauge with a sample for each run that has the figure."""
        gauges: dict[str, GaugeMetricFamily] = {}

        def add(gauge: str, help: str, value: float | None, **labels: str) -> None:
            if value is not None:
                family = gauges.setdefault(gauge, GaugeMetricFamily(gauge, help, labels=list(labels)))
                family.add_metric(list(labels.values()), float(value))

        for name, run in self._shown():
            records, timings = run.metrics(), run.timings()
            newest: dict[str, Mapping[str, Any]] = {"timings": timings[-1] if timings else {}}
            newest |= {kind: _newest(records, kind) for kind in ("step", "evaluation")}
            step = newest["step"]
            add("vpd_run_step", "Training steps done.", step["step"] + 1 if step else 0, run=name)
            add("vpd_run_steps", "Training steps of the whole run.", step.get("steps"), run=name)
            add("vpd_run_finished", "1 when the run is done.", run.summary is not None, run=name)
            add("vpd_run_written_timestamp_seconds", "When the learner wrote last.", run.written_at, run=name)
            for figure in FIGURES:
                add(figure.gauge, figure.help, newest[figure.kind].get(figure.key), run=name)
            for source, rows, lift in _lifts(step):
                help = "log q - log pi of responses whose teacher prompt held the source's text."
                add("vpd_run_source_lift_nats", help, lift, run=name, source=source, rows=rows)
        yield from gauges.values()

    def describe(self) -> list[Metric]:
        """Nothing beforehand: what there is depends on the runs."""
        return []

    def _shown(self) -> Iterator[tuple[str, RunFiles]]:
        oldest = time.time() - SHOWN_S
        for name in self._folder.names():
            run = self._folder.run(name)
            if run is None or run.written_at < oldest:
                return
            yield name, run


def _newest(records: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next((record for record in reversed(records) if record["kind"] == kind), {})


def _lifts(step: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Of each source: its name, `success` or `failure`, and the lift of those rollouts."""
    for key, value in step.items():
        source, _, figure = key.removeprefix(_SOURCE).rpartition("/")
        if key.startswith(_SOURCE) and figure in ("success" + _LIFT, "failure" + _LIFT):
            yield source, figure.removesuffix(_LIFT), value
