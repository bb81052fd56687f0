"""Fetch the model that VPD_MODEL__PATH names on a hub into HF_HOME; a built-in or local one is there. Prints where."""

import os
import sys

from services.inference.model_files import model_directory
from shared.errors import VPDError

try:
    print(model_directory(os.environ.get("VPD_MODEL__PATH") or "builtin:renamed_library"))
except VPDError as error:
    sys.exit(f"error: {error}")
