"""The inference service: rollouts with token ids, log-probs and policy versions, over an engine."""
