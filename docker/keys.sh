#!/bin/sh
# Makes the stack's bearer key at the first start, in the volume that every service reads. Prints it that once.
# With VPD_API_KEY set, the services take that one and the file is left as it is.
set -eu
file=${VPD_API_KEY_FILE:-/keys/api_key}

if [ -n "${VPD_API_KEY:-}" ]; then
    echo "The stack's API key is the one in VPD_API_KEY."
elif [ -s "$file" ]; then
    echo "The stack's API key was made at the first start and is kept in $file."
else
    umask 027
    key=vpd-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    # A start that is cut short must not leave half a key.
    printf '%s\n' "$key" >"$file.new" && chmod 0440 "$file.new" && mv "$file.new" "$file"
    echo "The stack's API key, shown this once: $key"
    echo "Send it as: Authorization: Bearer $key"
fi
