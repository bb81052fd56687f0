"""What `/metrics` says of the inference service beside the common part: its own counts, and the engine's figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.inference.engine import Engine, Figures
from services.inference.policy_store import PolicyStore
from shared.protocol import PromptRollouts

_PUBLISH_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics(Collector):
    """The service's metrics; `register` makes them visible."""

    def __init__(self) -> None:
        self._own = (
            rollouts := Counter("vpd_rollouts", "Rollouts sampled.", registry=None),
            tokens := Counter("vpd_response_tokens", "Response tokens sampled.", registry=None),
            publish := Histogram(
                "vpd_policy_publish_seconds",
                "Time to check, load and try a policy version.",
                buckets=_PUBLISH_S,
                registry=None,
            ),
            canary := Gauge(
                "vpd_policy_canary_nats",
                "Largest difference of the engine's log-probs from the trainer's on the last canary.",
                registry=None,
            ),
            restarts := Counter("vpd_engine_restarts", "Starts of the engine after the first.", registry=None),
        )
        self._rollouts, self._tokens = rollouts, tokens
        self.publish_s, self.canary_nats, self.restarts = publish, canary, restarts
        self._figures: Figures | None = None

    def register(self, registry: CollectorRegistry, store: PolicyStore) -> None:
        """Show them in `registry`, with the version that `store` serves."""
        for metric in self._own:
            registry.register(metric)
        registry.register(self)
        version = Gauge("vpd_policy_version", "Policy version served.", registry=registry)
        version.set_function(lambda: store.version)
        blocked = Gauge("vpd_policy_blocked", "1 while nothing may be sampled.", registry=registry)
        blocked.set_function(lambda: float(store.blocked is not None))

    def count(self, made: Iterable[PromptRollouts]) -> None:
        """Count what was sampled."""
        for several in made:
            for one in several.rollouts:
                self._rollouts.inc()
                self._tokens.inc(len(one.token_ids))

    async def read(self, engine: Engine) -> bytes:
        """Take the engine's figures, and return its own metrics. Raises EngineFailure."""
        # Absent rather than of another time, where the engine does not answer.
        self._figures = None
        self._figures = await engine.figures()
        return await engine.exposition()

    def collect(self) -> Iterator[Metric]:
        """The engine's figures, where there are any."""
        if (figures := self._figures) is None:
            return
        yield GaugeMetricFamily("vpd_engine_running", "Requests that the engine runs.", figures.running)
        yield GaugeMetricFamily("vpd_engine_waiting", "Requests that wait in the engine.", figures.waiting)
        if figures.kv_use is not None:
            yield GaugeMetricFamily("vpd_engine_kv_use", "Used share of keys and values.", figures.kv_use)
        yield CounterMetricFamily("vpd_engine_tokens", "Tokens generated since the engine started.", figures.tokens)

    def describe(self) -> list[Metric]:
        """Nothing beforehand: what there is depends on the engine."""
        return []
