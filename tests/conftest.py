"""One torch thread per process (spinning threads starve small models), and the folders that tests may find."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
