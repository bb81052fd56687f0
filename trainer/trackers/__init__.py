"""A run's figures at TensorBoard, Trackio, W&B and MLflow.

metrics.jsonl is what happened; a tracker has a copy. `process.py` keeps a process beside the learner that reads the
run's files (`rows.py`) and hands them on (`delivery.py`), so a tracker that hangs can hold up neither the run nor
another tracker, and gets later what it missed. What each of them is told is in its own module.
"""
