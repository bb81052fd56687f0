#!/bin/sh
# Install torch at the pin $1: from the wheel directory $2, else from the index $3, else from pip's default index.
set -eu
pin=$1 wheels=$2 index=$3

if [ -n "$(find "$wheels" -name 'torch-*.whl')" ]; then
    # Only torch itself is taken from the directory; what it needs comes with the other pins.
    pip install --no-index --no-deps --find-links "$wheels" "$pin" && exit 0
    echo "docker/wheels/ holds no wheel that fits $pin on this platform; trying the indexes" >&2
fi
pip install --retries 1 --timeout 15 --index-url "$index" "$pin" && exit 0
echo "$index does not give $pin; trying the default index" >&2
pip install "$pin"
