#!/bin/sh
# What every container of the stack runs: read the stack's key, choose the recipe and the threads, start `vpd`.
#   VPD_API_KEY_FILE  file with the bearer key, where VPD_API_KEY is not set
#   VPD_RECIPE        recipe file; a bare name means recipes/NAME.toml
# Neither is a setting, so neither stays in the environment: unknown VPD_ names are errors.
set -eu

if [ -z "${VPD_API_KEY:-}" ] && [ -n "${VPD_API_KEY_FILE:-}" ]; then
    if [ ! -s "$VPD_API_KEY_FILE" ]; then
        echo "No bearer key: $VPD_API_KEY_FILE is missing or empty. Start the 'keys' service, or set VPD_API_KEY." >&2
        exit 2
    fi
    VPD_API_KEY=$(cat "$VPD_API_KEY_FILE")
    export VPD_API_KEY
fi

recipe=${VPD_RECIPE:-}
case $recipe in
    '' | */* | *.toml) ;;
    *) recipe=recipes/$recipe.toml ;;
esac
unset VPD_API_KEY_FILE VPD_RECIPE

# Inference and learner share the cores, as under `vpd up`.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    cores=$(nproc)
    OMP_NUM_THREADS=$((cores > 1 ? cores / 2 : 1))
    export OMP_NUM_THREADS
fi

if [ -n "$recipe" ]; then
    exec vpd "$@" --recipe "$recipe"
fi
exec vpd "$@"
