"""Tests keep a reader's points out of the reader's own file: in this process, and in the kernels it starts."""

import os
import tempfile

FOLDER = tempfile.TemporaryDirectory(prefix="kdtutor-tests-")
os.environ["KDTUTOR_PROGRESS"] = os.path.join(FOLDER.name, "progress.json")
