"""Runs inside vLLM's workers (`--worker-extension-cls vpd_vllm_worker.WorkerExtension`): takes published weights.

Nothing of this project can be imported here: vLLM lives in an environment of its own. The methods are called by name,
through `/collective_rpc`: first `read_checkpoint`, then `swap_weights`.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vpd_vllm_cpu import mend

PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    # vLLM's engine process outlives a server that was killed, and keeps all its memory.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

# Before the model is built: vLLM imports this module first.
mend()


class WorkerExtension:
    """Mixed into vLLM's worker, whose `model_runner` it uses."""

    model_runner: Any

    def read_checkpoint(self, directory: str) -> dict[str, Any]:
        """Read all of a checkpoint into memory, beside the weights that serve; {"error": sentence} if it cannot be.

        A reload that fails midway leaves vLLM without weights, so everything that can fail on a disk happens here.
        """
        try:
            self._read = read_tensors(Path(directory))
        except Exception as error:  # noqa: BLE001  told to the gateway
            self._read = {}
            return {"error": f"{type(error).__name__}: {error}"}
        return {"tensors": len(self._read)}

    def swap_weights(self) -> dict[str, Any]:
        """Load what was read. Raises what vLLM's loader raises; the worker is of no use then."""
        weights, self._read = self._read, {}
        if not weights:
            raise RuntimeError("no checkpoint has been read")
        self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
        repack_tied_head(self.model_runner.get_model())
        return {"tensors": len(weights)}


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files of a directory, by name. Raises FileNotFoundError when there is none."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"there is no .safetensors file in {directory}")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


def repack_tied_head(model: torch.nn.Module) -> None:
    """Pack the output head anew from the embeddings it shares.

    On a CPU vLLM multiplies with a packed copy of each weight. Reloading renews those of all layers but a tied head's,
    which would go on computing logits from the old embeddings, and nothing would say so.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)
