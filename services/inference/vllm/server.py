"""vLLM's own server as a child of this process, on a Unix socket in a directory that only this user can enter."""

from __future__ import annotations

import asyncio
import collections
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.inference.vllm.client import VLLMClient
from services.inference.vllm.environment import has_gpu
from shared.errors import EngineFailure
from shared.settings import Settings
from shared.tether import tethered

WORKER_DIRECTORY = Path(__file__).parent / "worker"
ENTRY_POINT = "vllm.entrypoints.openai.api_server"
_GRACE_S = 10.0
_POLL_S = 0.2
_LINES = 400
_LONGEST_TEMPORARY = 48
_ERROR = re.compile(r"\b\w*(Error|Exception)\b: ")
# What vLLM says of a cause that an earlier line names.
_GENERIC = ("EngineDeadError", "Engine core initialization failed", "EngineCore encountered", "CancelledError")


class VLLMServer:
    """One life of the child, from `start` to `stop` or to its own end."""

    def __init__(self, settings: Settings, python: Path, model: Path) -> None:
        self._settings = settings
        # The path of a Unix socket has 107 bytes at most, and vLLM makes some of its own in here.
        short = len(tempfile.gettempdir()) <= _LONGEST_TEMPORARY
        self._directory = Path(tempfile.mkdtemp(prefix="vpd-vllm-", dir=None if short else "/tmp"))
        self.socket = self._directory / "socket"
        self._command = command(settings, python, model, self.socket)
        self._process: asyncio.subprocess.Process | None = None
        self._forwarding: asyncio.Task[None] | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES)

    async def start(self, client: VLLMClient) -> None:
        """Return when the model is loaded. Raises EngineFailure with vLLM's reason when it ends or takes too long."""
        self._process = await asyncio.create_subprocess_exec(
            *tethered(self._command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # What vLLM leaves in its temporary directory goes with this one.
            env=child_environment(self._settings, os.environ) | {"TMPDIR": str(self._directory)},
            start_new_session=True,
            limit=2**20,
        )
        self._forwarding = asyncio.create_task(self._forward())
        limit_s = self._settings.inference.vllm.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while await client.health() != 200:
                    if self._process.returncode is not None:
                        raise EngineFailure(f"vLLM {await self.ended()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise EngineFailure(
                f"vLLM was not ready after {limit_s:g} s: raise inference.vllm.start_timeout_s. {self.last_words()}"
            ) from error

    async def ended(self) -> str:
        """Wait for the child's end; how it ended and why, in its own words."""
        assert self._process is not None and self._forwarding is not None
        code = await self._process.wait()
        await asyncio.wait((self._forwarding,), timeout=1.0)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"{how}: {self.last_words()}"

    def kill(self) -> None:
        """End the child and all its processes at once."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def stop(self) -> None:
        """End the child, kindly first, and remove its files."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.terminate()
            await asyncio.wait((asyncio.ensure_future(self._process.wait()),), timeout=_GRACE_S)
            self.kill()
            await self._process.wait()
        if self._forwarding is not None:
            self._forwarding.cancel()
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def last_words(self) -> str:
        """The last error that names a cause."""
        lines = [line for line in self._lines if line.strip() and "WARNING" not in line]
        errors = [line[match.start() :] for line in lines if (match := _ERROR.search(line))]
        causes = [error for error in errors if not any(word in error for word in _GENERIC)]
        if errors and not causes:
            return "its engine process died"
        last = causes or lines
        return " ".join(last[-1].split())[:400] if last else "it left no message"

    async def _forward(self) -> None:
        """Copy the child's output to ours."""
        assert self._process is not None and self._process.stdout is not None
        while True:
            try:
                line = (await self._process.stdout.readline()).decode(errors="replace")
            except ValueError:  # a line longer than the limit
                continue
            if not line:
                return
            self._lines.append(line)
            sys.stderr.write(line)


def command(settings: Settings, python: Path, model: Path, socket: Path) -> list[str]:
    """The child's command line. What the user adds comes last, and so wins."""
    inference = settings.inference
    options = [
        *("--model", str(model), "--served-model-name", "policy", "--uds", str(socket)),
        *("--dtype", settings.model.dtype, "--max-num-seqs", str(inference.max_batch_rows)),
        # Log-probs of the distribution that was sampled from: after temperature and top-p.
        *("--logprobs-mode", "processed_logprobs", "--max-logprobs", "20"),
        *("--worker-extension-cls", "vpd_vllm_worker.WorkerExtension"),
        *("--enable-scale-out", "--enable-request-id-headers", "--disable-uvicorn-access-log"),
    ]
    if inference.max_context is not None:
        options += ["--max-model-len", str(inference.max_context)]
    if inference.publish != "files":
        options += ["--weight-transfer-config", f'{{"backend": "{inference.publish}"}}']
    if inference.vllm.lora_rank is not None:
        options += ["--enable-lora", "--max-lora-rank", str(inference.vllm.lora_rank)]
    if on_cpu(settings):
        # Compiling takes a minute at every start, longer than most small models then gain.
        options.append("--enforce-eager")
    return [str(python), "-m", ENTRY_POINT, *options, *inference.vllm.arguments]


def child_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: ours without this project's settings and Python's own."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("VPD_", "PYTHON", "OMP_"))}
    added = {
        "PYTHONPATH": str(WORKER_DIRECTORY),
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_PLUGINS": "",
    }
    if settings.inference.vllm.lora_rank is not None:
        added["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if settings.inference.publish == "ipc":
        # CUDA handles travel pickled. Only the gateway reaches the socket they arrive on.
        added["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if on_cpu(settings):
        added |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.inference.vllm.kv_cache_gb),
            # Bound to cores, threads stand in each other's way as soon as anything else runs.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.inference.threads or 1),
            # One process less, and half the start-up time.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    defaults = {"VLLM_LOGGING_LEVEL": "WARNING"}
    if on_cpu(settings):
        # Else a function of the sampler is compiled in spite of --enforce-eager. That needs a C++ compiler, which many
        # machines do not have, and makes the first answer after each start wait.
        defaults["TORCH_COMPILE_DISABLE"] = "1"
        # Else torch's collectives, which one process has no use for, listen where other machines reach them.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return {**defaults, **kept, **added}


def on_cpu(settings: Settings) -> bool:
    """Whether vLLM computes on the CPU: asked for, or there is no NVIDIA GPU."""
    device = settings.model.device
    return device == "cpu" or (device == "auto" and not has_gpu())
