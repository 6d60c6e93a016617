"""Where Colab and Kaggle keep what, and where the system tells about itself.

RELAYDET_ROOT puts another folder in place of /: the tests' way to stand on such a machine.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT_VARIABLE = "RELAYDET_ROOT"
ROOT = Path(os.environ.get(ROOT_VARIABLE) or "/")
"""Where the file system begins."""
DRIVE = ROOT / "content/drive"
"""Where Colab's notebooks mount Google Drive; `google.colab.drive.mount` suggests no other."""
KAGGLE_INPUT = ROOT / "kaggle/input"
"""Where Kaggle mounts data sets and the outputs of earlier versions, to be read only."""
KAGGLE_WORKING = ROOT / "kaggle/working"
"""What Kaggle keeps as the output of a version."""
MOUNTS = ROOT / "proc/mounts"
"""Every mount of this machine, on Linux; see proc(5)."""
UPTIME = ROOT / "proc/uptime"
"""Seconds since the machine was started, on Linux; see proc(5)."""
