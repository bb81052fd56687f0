#!/bin/sh
# What a container of vLLM's own image runs, in compose's profile `gpu` and in the chart: vLLM's server, prepared for
# `inference` as it prepares its own child (services/inference/vllm/server.py). VLLM_ARGUMENTS are further arguments, split
# at spaces; they come last, and so win.
set -eu

# builtin:WORLD and builtin:WORLD/VARIANT, which are in the project's tree, or what vLLM knows itself.
model=${VPD_MODEL__PATH:-builtin:renamed_library}
case $model in
    builtin:*/*) world=${model#builtin:} model=/opt/vpd/builtin/${world%%/*}/model_${world#*/} ;;
    builtin:*) model=/opt/vpd/builtin/${model#builtin:}/model ;;
esac

set -- --model "$model" --served-model-name policy --host 0.0.0.0 --port 8000 \
    --dtype "${VPD_MODEL__DTYPE:-float32}" --max-num-seqs "${VPD_INFERENCE__MAX_BATCH_ROWS:-256}" \
    --logprobs-mode processed_logprobs --max-logprobs 20 \
    --worker-extension-cls vpd_vllm_worker.WorkerExtension \
    --enable-scale-out --enable-request-id-headers --disable-uvicorn-access-log
if [ -n "${VPD_INFERENCE__MAX_CONTEXT:-}" ]; then
    set -- "$@" --max-model-len "$VPD_INFERENCE__MAX_CONTEXT"
fi
if [ -n "${VPD_INFERENCE__VLLM__LORA_RANK:-}" ]; then
    set -- "$@" --enable-lora --max-lora-rank "$VPD_INFERENCE__VLLM__LORA_RANK"
fi
# shellcheck disable=SC2086
exec python3 -m vllm.entrypoints.openai.api_server "$@" ${VLLM_ARGUMENTS:-}
