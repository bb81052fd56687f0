"""Run the command argv[1:] and end with its status, but with 143 where that is 0 because it was told to stop (SIGTERM).

A learner ends with 0 when its run is done, and also when it was stopped; to a Job of Kubernetes 0 means done.
"""

import signal
import subprocess
import sys
from types import FrameType

stopped = False
child = subprocess.Popen(sys.argv[1:])


def stop(number: int, _: FrameType | None) -> None:
    global stopped
    stopped = True
    child.send_signal(number)


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
status = child.wait()
if status < 0:
    status = 128 - status
sys.exit(143 if stopped and status == 0 else status)
